//go:build !stress

package main

// execRuns is how often each way to lose a lock is tried; make stress does 100.
const execRuns = 2

// execStrict makes TestExecDeaths check times; make stress does. Times are exact only on a machine that is not busy,
// and the guard's timing is tested on a fake clock.
const execStrict = false
