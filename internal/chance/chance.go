// Package chance chooses the random pauses of the client and of the stream's consumer. It is apart so that a simulation can make them
// repeat: see [Replace].
package chance

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// source, if not nil, takes the place of the runtime's random numbers.
var source atomic.Pointer[func(n int64) int64]

// N returns a random duration from 0 up to, but not including, n. n must be above 0.
func N(n time.Duration) time.Duration {
	if f := source.Load(); f != nil {
		return time.Duration((*f)(int64(n)))
	}
	return rand.N(n)
}

// Replace makes N return what f returns, which must be from 0 up to, but not including, its argument, and be safe for concurrent use.
// It holds for the whole process until the function that it returns is called. It is for tests.
func Replace(f func(n int64) int64) (restore func()) {
	source.Store(&f)
	return func() { source.Store(nil) }
}
