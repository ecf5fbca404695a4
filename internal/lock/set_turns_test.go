package lock

import (
	"fmt"
	"testing"
	"time"
)

// A set of three locks among single waiters that arrive for ever: on each of its locks, only those are granted before it that were ahead of it when it
// joined. Each lock has its own speed, so that the set is first in one queue long before it is in another.
func TestRuleSetWaitsForThoseAheadOnly(t *testing.T) {
	k := newKit(t)
	names := []string{"a", "b", "c"}
	ahead := map[string]int{"a": 2, "b": 9, "c": 5} // the holder, and those who wait
	arrived, left := map[string]int{}, map[string]int{}
	arrive := func(name string) {
		arrived[name]++
		_, _ = k.acquire(fmt.Sprint(name, arrived[name]), func(r *AcquireRequest) { r.Lock, r.TTL, r.Wait = name, 10*time.Hour, 10*time.Hour })
	}
	for _, name := range names {
		for range ahead[name] {
			arrive(name)
		}
	}
	wait := func(r *SetRequest) { r.Wait = 10 * time.Hour }
	_ = k.waitSet("set", names, wait)
	granted := func() bool { _, held := k.at("a").Holders[SetKey(names, "set")]; return held }
	steps := 0
	for ; !granted() && steps < 1000; steps++ {
		for i, name := range names {
			arrive(name)
			if r := k.at(name); len(r.Holders) == 1 && steps%(i+1) == 0 {
				left[name]++
				k.mustRelease(name, fmt.Sprint(name, left[name]))
			}
			k.pass(time.Millisecond)
		}
	}
	for _, name := range names {
		if left[name] != ahead[name] {
			t.Errorf("%s: %d were granted before the set, and %d were ahead of it", name, left[name], ahead[name])
		}
	}
	k.mustSet("set", names, wait)
	fmt.Printf("sets: a set of 3 behind %d waiters, with %d arriving meanwhile, was granted after the %d that were ahead\n", 2+9+5, 3*steps, left["a"]+left["b"]+left["c"])
	k.want(k.releaseSet("set", names...), nil)
	for _, name := range names {
		if _, next := k.at(name).Holders[KeyOf(name, fmt.Sprint(name, ahead[name]+1))]; !next {
			t.Errorf("%s: after the set, the holders are %+v", name, k.at(name).Holders)
		}
	}
}

// A set behind another set that waits for a lock which only that one wants is not granted the locks that are free, whoever asks: it itself, or who settles a lock.
func TestRuleSetIsNotPassedByASet(t *testing.T) {
	k := newKit(t)
	k.must("holder", func(r *AcquireRequest) { r.Lock, r.TTL = "c", time.Hour })
	first, second := []string{"a", "b", "c"}, []string{"a", "b"}
	wait := func(r *SetRequest) { r.Wait = time.Hour }
	_ = k.waitSet("first", first, wait)
	tickets := k.waitSet("second", second, wait).Tickets
	_ = k.waitSet("second", second, wait)
	_ = k.waitSet("second", second, wait, func(r *SetRequest) { r.Tickets = tickets })
	for _, name := range first {
		k.want(k.Settle(t.Context(), name), nil)
	}
	if a, b := k.at("a"), k.at("b"); len(a.Holders)+len(b.Holders) != 0 || a.Waiting != 2 || b.Waiting != 2 {
		t.Errorf("a is %+v, b is %+v", a, b)
	}
	k.mustRelease("c", "holder")
	k.mustSet("first", first, wait)
	k.want(k.releaseSet("first", first...), nil)
	k.mustSet("second", second, wait)
}
