package lock_test

import (
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

func TestMemorySuite(t *testing.T) { storetest.Run(t, &lock.Memory{}) }

func TestMemoryProperty(t *testing.T) { storetest.Property(t, &lock.Memory{}) }

func TestMemoryPurge(t *testing.T) {
	var m lock.Memory
	c, err := lock.New(lock.Config{Store: &m})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "l", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	if n := m.Purge(time.Now().Add(lock.DefaultRetention)); n != 0 {
		t.Errorf("purged %d too soon", n)
	}
	if n := m.Purge(time.Now().Add(lock.DefaultRetention + 2*time.Minute)); n != 1 {
		t.Errorf("purged %d", n)
	}
	if s, err := c.Status(t.Context(), "a"); err != nil || s.Fence != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestMemorySetProperty(t *testing.T) { storetest.SetProperty(t, &lock.Memory{}) }
