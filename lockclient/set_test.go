package lockclient_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

func wants(names ...string) (list []lockclient.Want) {
	for _, name := range names {
		list = append(list, lockclient.Want{Lock: name})
	}
	return list
}

func TestAcquireAll(t *testing.T) {
	c := locktest.New(t)
	client := c.Client("me")
	ctx := t.Context()
	lease, err := client.AcquireAll(ctx, wants("deploy:b", "deploy:a"), lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Name() != "deploy:a,deploy:b" || !slices.Equal(slices.Sorted(maps.Keys(lease.Fences())), []string{"deploy:a", "deploy:b"}) {
		t.Errorf("%v", lease)
	}
	if err := lease.Renew(ctx); err != nil {
		t.Error(err)
	}
	_, err = client.TryAcquireAll(ctx, wants("deploy:b", "other"), lockclient.Options{})
	held, ok := errors.AsType[*lockclient.HeldError](err)
	if !ok || held.Lock != "deploy:b" || len(held.Holders) != 1 {
		t.Errorf("a set of which one lock is held: %v", err)
	}
	if s, err := client.Status(ctx, "other"); err != nil || s.Locked {
		t.Errorf("the other lock is %+v, %v", s, err)
	}
	if err := lease.Release(ctx); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"deploy:a", "deploy:b"} {
		if s, err := client.Status(ctx, name); err != nil || s.Locked {
			t.Errorf("%s after the release: %+v, %v", name, s, err)
		}
	}
	one, err := client.AcquireAll(ctx, wants("deploy:a"), lockclient.Options{})
	if err != nil || one.Name() != "deploy:a" || one.Fences()["deploy:a"] != one.Fence() {
		t.Errorf("a set of one: %v, %v", one, err)
	}
}

// Two sets in opposite order wait for each other's turns, and both get them.
func TestDoAllTakesTurns(t *testing.T) {
	c := locktest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	inside, done := make(chan bool, 1), make(chan error)
	for _, names := range [][]string{{"a", "b"}, {"b", "a"}, {"b"}, {"a", "c"}} {
		client := c.Client("me")
		go func() {
			done <- client.DoAll(ctx, wants(names...), lockclient.Options{}, func(context.Context, *lockclient.Lease) error {
				if slices.Contains(names, "b") {
					inside <- true // at most one holds b
					defer func() { <-inside }()
				}
				return nil
			})
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A set that is over in one of its locks is lost, and the rest is released.
func TestSetIsLostAsAWhole(t *testing.T) {
	c := locktest.New(t)
	client := c.Client("me")
	lease, err := client.AcquireAll(t.Context(), wants("a", "b"), lockclient.Options{ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	c.Expire("b")
	if err := lease.Renew(t.Context()); !errors.Is(err, lockclient.ErrLost) || lease.Err() == nil {
		t.Errorf("renewed: %v", err)
	}
	if err := client.Close(t.Context()); err != nil { // waits for the release in the background
		t.Error(err)
	}
	if s, err := c.Client("me").Status(t.Context(), "a"); err != nil || s.Locked {
		t.Errorf("a is %+v, %v", s, err)
	}
}

// A grant whose answer was lost is found by the next try; a caller that gives up leaves all queues.
func TestSetOfWhichAnswersAreLost(t *testing.T) {
	c := locktest.New(t)
	client := c.Client("me")
	c.LoseNextAnswer("acquire-set", 2)
	lease, err := client.AcquireAll(t.Context(), wants("a", "b"), lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client("me").AcquireAll(t.Context(), wants("b", "c"), lockclient.Options{Wait: 50 * time.Millisecond})
	if !errors.Is(err, lockclient.ErrHeld) {
		t.Errorf("%v", err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Client("me").Do(ctx, "c", lockclient.Options{}, func(context.Context, *lockclient.Lease) error { return nil }); err != nil {
		t.Errorf("the place in the queue of c is still there: %v", err)
	}
}

func TestBadSets(t *testing.T) {
	client := locktest.New(t).Client("me")
	for what, try := range map[string]func() error{
		"no lock": func() error { _, err := client.AcquireAll(t.Context(), nil, lockclient.Options{}); return err },
		"a lock twice": func() error {
			_, err := client.AcquireAll(t.Context(), wants("a", "a"), lockclient.Options{})
			return err
		},
		"a bad name": func() error {
			_, err := client.AcquireAll(t.Context(), wants("a", "b,c"), lockclient.Options{})
			return err
		},
		"a mode for all": func() error {
			_, err := client.AcquireAll(t.Context(), wants("a", "b"), lockclient.Options{Mode: lockclient.ModeWrite})
			return err
		},
		"a capacity for all": func() error {
			_, err := client.AcquireAll(t.Context(), wants("a", "b"), lockclient.Options{Capacity: 2})
			return err
		},
		"too many permits": func() error {
			_, err := client.AcquireAll(t.Context(), []lockclient.Want{{Lock: "a", Capacity: 2, Permits: 3}}, lockclient.Options{})
			return err
		},
	} {
		if err := try(); !errors.Is(err, lockclient.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
