package sim

import "slices"

// Shrink looks for a smaller world that fails as well: fewer of everything, fewer kinds of faults, and at last the shortest run. fails makes
// a run and reports whether it fails. It is called at most limit times.
func Shrink(p Params, fails func(Params) bool, limit int) Params {
	try := func(q Params) bool {
		if limit == 0 {
			return false
		}
		limit--
		if !fails(q) {
			return false
		}
		p = q
		return true
	}
	for smaller := true; smaller && limit > 0; {
		smaller = false
		for _, size := range []func(*Params) *int{
			func(q *Params) *int { return &q.Clients }, func(q *Params) *int { return &q.Sessions }, func(q *Params) *int { return &q.Tasks },
			func(q *Params) *int { return &q.Locks }, func(q *Params) *int { return &q.Coordinators },
		} {
			for q := p; *size(&q) > least(size(&q), &q.Tasks); q = p {
				*size(&q)--
				if !try(q) {
					break
				}
				smaller = true
			}
		}
		for _, f := range p.Faults {
			q := p
			q.Faults = slices.DeleteFunc(slices.Clone(p.Faults), func(other Fault) bool { return other == f })
			smaller = try(q) || smaller
		}
	}
	for low, high := 0, p.Ops; high-low > 1 && limit > 0; { // a run without the last operations is the same until there
		q := p
		q.Ops = (low + high) / 2
		if try(q) {
			high = q.Ops
		} else {
			low = q.Ops
		}
	}
	return p
}

// least is the least number of something: there may be no tasks.
func least(size, tasks *int) int {
	if size == tasks {
		return 0
	}
	return 1
}
