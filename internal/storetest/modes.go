package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// modeCapacity is the capacity of a lock that readers and a writer share.
const modeCapacity = 100

func reading(r *lock.AcquireRequest) { r.Capacity, r.Permits, r.SameCapacity = modeCapacity, 1, true }
func writing(r *lock.AcquireRequest) {
	r.Capacity, r.Permits, r.SameCapacity = modeCapacity, modeCapacity, true
}

// downgrade makes a reader of a writer.
func (f *fixture) downgrade(secret string) (lock.Released, error) {
	return f.Release(f.t.Context(), lock.ReleaseRequest{Lock: f.name, Secret: secret, Keep: 1, Capacity: modeCapacity})
}

// modeSuite is the part of the suite that covers readers and a writer.
var modeSuite = map[string]func(*fixture){
	"readers share, a writer is alone, and all take turns": func(f *fixture) {
		f.mustAcquire("r1", reading)
		f.mustAcquire("r2", reading)
		if place := f.waits("w", writing); place != 1 {
			f.t.Errorf("the writer has place %d", place)
		}
		if place := f.waits("r3", reading); place != 2 { // it does not pass the writer
			f.t.Errorf("the third reader has place %d", place)
		}
		for _, s := range []string{"r1", "r2"} {
			if _, err := f.release(s); err != nil {
				f.t.Fatal(err)
			}
		}
		f.holds("w")
		if _, err := f.release("w"); err != nil {
			f.t.Fatal(err)
		}
		f.holds("r3")
	},
	"a writer waits for those before it alone": func(f *fixture) {
		ahead, granted := 50, 0
		for i := range ahead {
			f.mustAcquire(fmt.Sprint("r", i), reading)
		}
		f.waits("w", writing)
		for i := range ahead { // for each reader that leaves another one comes
			if _, err := f.release(fmt.Sprint("r", i)); err != nil {
				f.t.Fatal(err)
			}
			if f.waits(fmt.Sprint("later", i), reading) == 0 {
				granted++
			}
		}
		f.holds("w")
		if granted > 0 {
			f.t.Errorf("%d readers that came later were granted the lock before the writer", granted)
		}
	},
	"a writer becomes a reader": func(f *fixture) {
		l := f.mustAcquire("w", writing)
		for _, s := range []string{"r1", "r2"} {
			f.waits(s, reading)
		}
		f.waits("w2", writing)
		var revs []int64
		for range 2 { // repeated, it changes nothing
			r, err := f.downgrade("w")
			if err != nil || r.Fence != l.Lease.Fence {
				f.t.Fatalf("%+v, %v", r, err)
			}
			f.holds("w", "r1", "r2")
			f.queue("w2")
			revs = append(revs, f.record().Rev)
		}
		if revs[0] != revs[1] {
			f.t.Errorf("revisions %v: a repetition wrote", revs)
		}
		again, err := f.renew("w")
		if err != nil || again.Lease.Fence != l.Lease.Fence || again.Lease.Permits != 1 {
			f.t.Errorf("%+v, %v", again, err)
		}
		if r := f.record(); r.Retired.Key == lock.KeyOf(f.name, "w") {
			f.t.Error("the lease is remembered as ended")
		}
		if _, err := f.release("w"); err != nil {
			f.t.Error(err)
		}
		f.holds("r1", "r2")
	},
	"a lease keeps its expiry when it becomes a reader's": func(f *fixture) {
		f.mustAcquire("w", writing)
		was := f.record().Holders[lock.KeyOf(f.name, "w")]
		f.clock.Advance(ttl / 2)
		if _, err := f.downgrade("w"); err != nil {
			f.t.Fatal(err)
		}
		is := f.record().Holders[lock.KeyOf(f.name, "w")]
		if was.Permits, is.Permits = 0, 0; is != was {
			f.t.Errorf("%+v, was %+v", is, was)
		}
	},
	"a reader never becomes a writer": func(f *fixture) {
		f.mustAcquire("r", reading)
		_, err := f.acquire("r", writing)
		f.wantErr(err, lock.ErrMorePermits)
		_, err = f.acquire("r", writing, waiting)
		f.wantErr(err, lock.ErrMorePermits)
		_, err = f.Release(f.t.Context(), lock.ReleaseRequest{Lock: f.name, Secret: "r", Keep: 2, Capacity: modeCapacity})
		f.wantErr(err, lock.ErrMorePermits)
		f.holds("r")
	},
	"a lock that is in use otherwise has no mode": func(f *fixture) {
		f.mustAcquire("a")
		for _, mode := range []func(*lock.AcquireRequest){reading, writing} {
			_, err := f.acquire("r", mode)
			f.wantErr(err, lock.ErrCapacityMismatch)
			_, err = f.acquire("r", mode, waiting)
			f.wantErr(err, lock.ErrCapacityMismatch)
		}
		_, err := f.downgrade("a")
		f.wantErr(err, lock.ErrCapacityMismatch)
		if _, err := f.release("a"); err != nil {
			f.t.Fatal(err)
		}
		f.mustAcquire("r", reading)
		_, err = f.acquire("b")
		f.wantErr(err, lock.ErrCapacityMismatch)
	},
	"only a live lease becomes a reader's": func(f *fixture) {
		_, err := f.downgrade("none")
		f.wantErr(err, lock.ErrLeaseLost)
		f.mustAcquire("w", writing)
		f.waits("w2", writing)
		_, err = f.downgrade("w2")
		f.wantErr(err, lock.ErrLeaseLost)
		f.queue("w2")
		f.clock.Advance(ttl)
		_, err = f.downgrade("w")
		f.wantErr(err, lock.ErrLeaseLost)
	},
	"a waiter that has not claimed the lock becomes a reader": func(f *fixture) {
		f.mustAcquire("w1", writing)
		f.waits("w2", writing)
		if _, err := f.release("w1"); err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.downgrade("w2"); err != nil {
			f.t.Fatal(err)
		}
		if l := f.record().Holders[lock.KeyOf(f.name, "w2")]; l.Unclaimed || l.Permits != 1 || l.ExpiresAt < f.clock.Now().UnixMilli()+int64(ttl/(2*time.Millisecond)) {
			f.t.Errorf("%+v", l)
		}
	},
	"a downgrade removes what has expired": func(f *fixture) {
		f.mustAcquire("w", writing)
		f.waits("gone", reading, func(r *lock.AcquireRequest) { r.Wait = time.Second })
		f.waits("r", reading, func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.clock.Advance(2 * time.Second)
		if _, err := f.downgrade("w"); err != nil {
			f.t.Fatal(err)
		}
		f.holds("w", "r")
		f.queue()
	},
	"a downgrade that nobody may hear of": func(f *fixture) {
		f.mustAcquire("w", writing)
		ctx, cancel := context.WithCancel(f.t.Context())
		cancel()
		_, err := f.Release(ctx, lock.ReleaseRequest{Lock: f.name, Secret: "w", Keep: 1, Capacity: modeCapacity})
		if err == nil || errors.Is(err, lock.ErrLeaseLost) {
			f.t.Errorf("error %v", err)
		}
		if _, err := f.downgrade("w"); err != nil {
			f.t.Error(err)
		}
	},
}
