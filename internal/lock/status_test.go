package lock

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

// Status and List show a lease until its expiry plus the skew allowance.
func TestStatusAndListKeepTheSkew(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		shown bool
	}{{ttl, true}, {ttl + skew - ms, true}, {ttl + skew, false}} {
		k := newKit(t)
		l := k.must("a", of(3, 2))
		k.pass(c.after)
		s, err := k.Status(t.Context(), lockName)
		available := int64(3)
		if c.shown {
			available = 1
		}
		if err != nil || len(s.Holders) == 1 != c.shown || s.Available != available || s.Capacity != 3 || s.Fence != l.Lease.Fence || s.Now != k.time.UnixMilli() {
			t.Errorf("%v after the grant: %+v, %v", c.after, s, err)
		}
		list, next, err := k.List(t.Context(), ListRequest{Limit: 10})
		if err != nil || next != "" || len(list) == 1 != c.shown {
			t.Errorf("%v after the grant: %+v, %v", c.after, list, err)
		}
		if list, _, err = k.List(t.Context(), ListRequest{Limit: 10, All: true}); err != nil || len(list) != 1 {
			t.Errorf("all: %+v, %v", list, err)
		}
	}
}

// A page ends at its limit and at its size; names that do not match are left out; another kind of cursor is refused.
func TestMemoryPages(t *testing.T) {
	var m Memory
	m.records = map[string]Record{}
	for _, name := range []string{"a", "b:1", "b:2", "b:3", "c"} {
		m.records[name] = Record{Rev: 1, Holders: map[LeaseKey]Lease{"l": {}}, FreeAt: 1}
	}
	names := func(q ListQuery) (string, string) {
		t.Helper()
		page, err := m.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range page.Entries {
			list = append(list, e.Name)
		}
		return strings.Join(list, " "), page.Next
	}
	first, next := names(ListQuery{Prefix: "b:", Limit: 2})
	if first != "b:1 b:2" || next == "" {
		t.Errorf("%q, %q", first, next)
	}
	if rest, last := names(ListQuery{Prefix: "b:", Limit: 2, Cursor: next}); rest != "b:3" || last != "" {
		t.Errorf("%q, %q", rest, last)
	}
	for _, cursor := range []string{"not base64!", base64.RawURLEncoding.EncodeToString([]byte("b:1")), "not base64!" + next} {
		if _, err := m.List(t.Context(), ListQuery{Limit: 2, Cursor: cursor}); !errors.Is(err, ErrBadCursor) {
			t.Errorf("%q: %v", cursor, err)
		}
	}

	fill := func(name string, size int) { // a record of just that size
		r := Record{Rev: 1, Holders: map[LeaseKey]Lease{"l": {}}}
		r.Holders["l"] = Lease{Terms: Terms{Metadata: strings.Repeat("x", size-r.Size())}}
		m.records[name] = r
	}
	fill("b:1", MaxPageBytes/2)
	fill("b:2", MaxPageBytes/2)
	if all, next := names(ListQuery{Prefix: "b:", Limit: 9}); all != "b:1 b:2 b:3" || next != "" {
		t.Errorf("a page of %d bytes takes another record: %q", MaxPageBytes, all)
	}
	fill("b:2", MaxPageBytes/2+1)
	if all, next := names(ListQuery{Prefix: "b:", Limit: 9}); all != "b:1 b:2" || next == "" {
		t.Errorf("a page above %d bytes takes no more: %q", MaxPageBytes, all)
	}
}
