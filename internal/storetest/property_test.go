package storetest

import (
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The property tests of a store run in parallel and draw from the same generators: the race detector sees what the generators share.
func TestGeneratorsInParallelTests(t *testing.T) {
	t.Run("one lock", func(t *testing.T) { t.Parallel(); Property(t, &lock.Memory{}) })
	t.Run("sets", func(t *testing.T) { t.Parallel(); SetProperty(t, &lock.Memory{}) })
}
