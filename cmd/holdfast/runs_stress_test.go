//go:build stress

package main

const (
	execRuns   = 100
	execStrict = true
)
