//go:build !stress

package main

// execRuns is how often each way to lose a lock is tried; make stress does 100.
const execRuns = 2

// execStrict holds deaths against the clock; make stress does. What the clock says is exact only on a machine that is not busy;
// when the guard acts is tested on a fake clock.
const execStrict = false
