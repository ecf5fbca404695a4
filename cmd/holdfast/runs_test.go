//go:build !stress

package main

// execRuns is how often each way to lose a lock is tried; make stress does 100.
const execRuns = 2
