package main
func report(file, page string) error { return nil }
