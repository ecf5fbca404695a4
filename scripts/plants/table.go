package main

const (
	command   = "internal/lock/command.go"
	client    = "lockclient/lease.go"
	acquires  = "lockclient/acquire.go"
	consumer  = "internal/stream/consumer.go"
	notifier  = "internal/stream/notifier.go"
	setOp     = "internal/lock/setop.go"
	setTask   = "internal/lock/settask.go"
	rulecache = "internal/lock/rulecache.go"
	giveback  = "internal/lock/giveback.go"
	thaw      = "internal/stream/thaw.go"
	redundant = "the decision on the record that was read says the same; the clause matters between a read and a write, and for commands that are sent without a read"
)

// plants is the table of bugs.
var plants = []plant{
	// The clauses of the guards. TestMutants in internal/lock removes each of them, too.
	{"take without FreeBy", command, "{Test: FreeBy, N: 0}, // no holders\n", "", ""},
	{"take without NobodyWaiting", command, "			{Test: NobodyWaiting},\n			{Test: FenceBelow, N: h.Fence},", "			{Test: FenceBelow, N: h.Fence},",
		"a lock is free and has waiters only after a force-release whose hand-off the store throttled: too rare; TestMutants removes the clause, too"},
	{"take without FenceBelow", command, "			{Test: FenceBelow, N: h.Fence},\n", "", ""},
	{"take without NotRetired", command, "			{Test: NotRetired, Key: key},\n", "", ""},
	{"renew without LeaseOutlives", command, "			{Test: LeaseOutlives, Key: key, N: now.UnixMilli()},\n			{Test: LeaseTTLAllows", "			{Test: LeaseTTLAllows", ""},
	{"renew without FreeBy", command, "			{Test: FreeBy, N: expiry},\n", "", ""},
	{"release without LeaseOutlives", command, "key, by, Clause{Test: LeaseOutlives, Key: key, N: now.UnixMilli()})", "key, by, Clause{Test: LeaseClaimed, Key: key})", ""},
	{"expire a skew allowance too early", command, "N: now.UnixMilli() - u.skew()})", "N: now.UnixMilli()})", redundant},
	{"end without OnlyHolder", command, "[]Clause{when, {Test: OnlyHolder}, {Test: NobodyWaiting},", "[]Clause{when, {Test: NobodyWaiting},", ""},
	{"end without NobodyWaiting", command, "{Test: OnlyHolder}, {Test: NobodyWaiting}, {Test: FenceBelow", "{Test: OnlyHolder}, {Test: FenceBelow", ""},
	{"swap without RevIs", command, "guard := []Clause{{Test: RevIs, N: from.Rev}, {Test: FenceIs", "guard := []Clause{{Test: FenceIs", ""},

	// Decisions of the coordinator.
	{"others get a lease at its expiry, without the allowance", "internal/lock/record.go", "return h.ExpiresAt <= now-s })", "return h.ExpiresAt <= now })", ""},
	{"a repeated acquire is refused", "internal/lock/acquire.go", "if h, mine := r.Holders[o.key]; mine {\n		return o.repeat", "if h, mine := r.Holders[o.key]; mine && h.Unclaimed {\n		return o.repeat", ""},
	{"a newcomer is granted before those who wait", "internal/lock/acquire.go", "case joins && to.heldBack(now) == nil && to.Waiting == 0 && ", "case joins && ", ""},
	{"an expired lease is renewed", "internal/lock/renew.go", "if !held || h.ExpiresAt <= now.UnixMilli() {", "if !held {", ""},
	{"the queue is served from any place", "internal/lock/queue.go", "case len(to.Queue) == 0 && w.Set == \"\" && to.heldBack(now) == nil && to.fits(w.Terms)", "case w.Set == \"\" && to.fits(w.Terms)", ""},
	{"permits are not counted", "internal/lock/queue.go", "return permits(r.Holders)+want.Permits <= r.limit(want.Capacity)", "return permits(r.Holders) < r.limit(want.Capacity)", ""},

	// Sets of locks.
	{"a set is granted out of turn", "internal/lock/setrun.go", "if len(r.Queue) == 0 || r.Queue[0].Key != key || !r.fits(r.Queue[0].Terms) || r.heldBack(now) != nil {", "if w, waits := r.place(key); !waits || !r.fits(w.Terms) {", ""},
	{"a set is granted where it does not fit", "internal/lock/setrun.go", "r.Queue[0].Key != key || !r.fits(r.Queue[0].Terms) || r.heldBack", "r.Queue[0].Key != key || r.heldBack", ""},
	{"one lock of a set is released", setTask, "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n	}\n", "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n		if cause == CauseRelease {\n			break\n		}\n	}\n",
		"the checks are of safety: what is left expires"},
	{"one lock of a set is renewed", setOp, "		if cmd != nil {\n			parts = append", "		if cmd != nil && i == 0 {\n			parts = append",
		"the answer has the time of the first of the leases that expires, so the client ends in time"},
	{"a set takes a lock that others hold", setOp, "if one := o.ones[i]; r.Waiting > 0 || r.heldBack(now) != nil || one.mismatches(r) || !r.fits(one.terms()) {", "if one := o.ones[i]; i == 0 && (r.Waiting > 0 || r.heldBack(now) != nil || one.mismatches(r) || !r.fits(one.terms())) {", ""},
	{"a set goes before those who wait", setOp, "if one := o.ones[i]; r.Waiting > 0 || r.heldBack(now) != nil", "if one := o.ones[i]; r.heldBack(now) != nil", ""},
	{"a write of one lock grants a set there", "internal/lock/queue.go", "len(to.Queue) == 0 && w.Set == \"\" && ", "len(to.Queue) == 0 && ", ""},
	{"a set is written in part", "internal/lock/memory.go", "		if !p.Command.Allows(m.records[p.Lock]) {\n			return 0, &GuardError{}\n		}\n	}\n	for _, p := range parts {\n		m.put(p.Lock, p.Command)\n", "		if !p.Command.Allows(m.records[p.Lock]) {\n			return 0, &GuardError{}\n		}\n		m.put(p.Lock, p.Command)\n", ""},
	{"the client forgets the rest of a set that is lost in one lock", "lockclient/lease.go", "if l.fences != nil { // it may be over", "if false { // it may be over", "the checks are of safety: what is left expires"},

	// Sets that wait for a task, and sets of executions.
	{"the token of a set is in none of its places", "internal/lock/limits.go", "			one.req.Token = o.req.Token\n", "", ""},
	{"the token of a set is in all of its places", "internal/lock/limits.go", "		if i == 0 { // see settask.go\n", "		if o.key != \"\" {\n", ""},
	{"the further token of a set's task is forgotten", setOp, "			w, _ = w.withToken(o.ones[i].req.Token)\n", "", ""},
	{"the further leases of a set's task are to be claimed", "internal/lock/setrun.go", "(claims || first.Tokens.OfTask())", "(claims || i == 0 && first.Tokens.OfTask())", ""},
	{"the output of a set has one fencing token", notifier, "wire.GrantedLock{Lock: names[i], Fence: l.Fence,", "wire.GrantedLock{Lock: names[i], Fence: first.Fence,", "the tokens of one grant are equal unless a lock's is ahead; TestSetOfATaskIsToldOnce notices"},
	{"the callback of a set is sent although one of its leases is lost", setTask, "		if !held || h.ExpiresAt <= c.clock().UnixMilli() {\n			return nil, ErrLeaseLost\n		}\n", "		if !held {\n			continue\n		}\n", ""},
	{"the end of an execution ends one lease of a set", setTask, "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n	}\n", "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n		if cause == CauseExecutionEnd {\n			break\n		}\n	}\n", "the checks of the others end them; TestSetOfAnExecution notices"},
	{"the end of a dead task ends one lease of a set", setTask, "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n	}\n", "		parts = append(parts, u.part(now, names[i], r, to, cause, by))\n		if cause == CauseTaskGone {\n			break\n		}\n	}\n", "the end of the execution ends the others; TestCrashPointsOfASet notices"},
	{"the leases of a set that belong to an execution end by time", "internal/lock/limits.go", "Wait: o.req.Wait, Execution: o.req.Execution, Trace:", "Wait: o.req.Wait, Execution: map[bool]string{true: o.req.Execution}[i == 0], Trace:", ""},
	// Freezes.
	{"a hand-off grants a frozen lock", "internal/lock/queue.go", "w.Set == \"\" && to.heldBack(now) == nil && to.fits", "w.Set == \"\" && to.fits", ""},
	{"an acquire is granted a frozen lock", "internal/lock/acquire.go", "case hold == nil && op.refused == nil && op.blind():", "case op.refused == nil && op.blind():", ""},
	{"a set is granted a frozen lock", "internal/lock/setop.go", "r.Waiting > 0 || r.heldBack(now) != nil || one.mismatches(r)", "r.Waiting > 0 || one.mismatches(r)", ""},
	{"a set that waits is granted a frozen lock", "internal/lock/setrun.go", "!r.fits(r.Queue[0].Terms) || r.heldBack(now) != nil {", "!r.fits(r.Queue[0].Terms) {", ""},
	{"rules are used for longer than their period", rulecache, "age >= 0 && age < period && wall >= 0 && wall < period", "age >= 0 && age < 6*period && wall >= 0 && wall < 6*period", ""},
	{"rules are used for as long as if there were none", rulecache, "	if len(rules) == 0 {\n		return NoRulesPeriod", "	if true {\n		return NoRulesPeriod", ""},
	{"a freeze is promised too early", "internal/lock/prefixrule.go", "return max(stored+RulePeriod.Milliseconds(), first+none)", "return min(stored, first)", ""},
	{"a second rule is promised too early", "internal/lock/prefixrule.go", "return max(stored+RulePeriod.Milliseconds(), first+none)", "_ = first + none\n	return stored + RulePeriod.Milliseconds()", ""},
	{"rules that cannot be read freeze nothing", rulecache, "			list[i] = &hold{err: err}\n			continue\n", "			continue\n", ""},
	{"a freeze covers its own name only", "internal/lock/prefixrule.go", "return strings.HasPrefix(name, p.Prefix)", "return name == p.Prefix || p.Prefix == \"\" && strings.HasPrefix(name, p.Prefix)", ""},
	{"of two freezes the one counts that ends first", "internal/lock/prefixrule.go", "(last == nil || f.Until > last.Until)", "(last == nil || f.Until < last.Until)", ""},
	{"a freeze that has ended goes on", rulecache, "h.freeze.Until > now.UnixMilli()", "h.freeze.Until+60000 > now.UnixMilli()",
		"a freeze that has ended is none for freezeOf; this is for one that ends between the read of the rules and the decision"},
	{"a poll does not find the end of a freeze", "internal/lock/poll.go", "held := r.heldBack(now) != nil", "held := true", ""},
	{"nothing looks for waiters at the end of a freeze", thaw, "		if err := c.later(ctx, job); err != nil {", "		if err := error(nil); err != nil {", ""},
	{"a freeze that was ended early is looked at when it would have ended", thaw, "		case after != nil:\n			job.Due = time.UnixMilli(after.Until)", "		case after != nil || before != nil:\n			job.Due = c.now().Add(time.Hour)", ""},
	{"the job of the first end is not set again for a longer freeze", thaw, "	return c.later(ctx, Job{Kind: JobThaw, Lock: j.Lock, Due: done.Again", "	return nil\n	return c.later(ctx, Job{Kind: JobThaw, Lock: j.Lock, Due: done.Again", ""},
	{"a rule's event is not published", consumer, "d.events = []Entry{ruleEntry(w.Write)}", "_ = ruleEntry", ""},

	// Rates.
	{"a rate keeps nothing back", "internal/lock/rate.go", "	if at, _ := r.nextGrant(); at > now.UnixMilli() {\n		return h\n	}\n", "", ""},
	{"a rate allows one grant more", "internal/lock/rate.go", "counted := len(r.Grants) - int(one.Value)", "counted := len(r.Grants) - int(one.Value) - 1", ""},
	{"grants to waiters are not counted", "internal/lock/queue.go", "r = r.counting(now).withHolder(w.Key, h)", "r = r.withHolder(w.Key, h)", ""},
	{"grants to newcomers are not counted", "internal/lock/acquire.go", "to = to.counting(now).withHolder(o.key, h)", "to = to.withHolder(o.key, h)", ""},
	{"grants to sets are not counted", setOp, "r = r.counting(now).withHolder(o.key, h)", "r = r.withHolder(o.key, h)", ""},
	{"a write grants all waiters that fit, if the rate allows one", "internal/lock/queue.go", "w.Set == \"\" && to.heldBack(now) == nil && to.fits", "w.Set == \"\" && r.heldBack(now) == nil && to.fits", ""},
	{"a free lock is taken without a look at its rate", "internal/lock/acquire.go", "o.blind() && r.hold == nil {", "o.blind() {", ""},
	{"the times of the grants are forgotten by the next one", "internal/lock/rate.go", "	r.Grants = append(slices.Clip(r.Grants), at)\n", "	r.Grants = slices.Clone([]int64{at})\n", ""},
	{"no job is set for the next grant of a rate", "internal/lock/queue.go", "			return HeldUp{Head: out.After.Head, Until: time.UnixMilli(at)}, nil\n", "			return HeldUp{}, nil\n",
		"others ask for the lock, and grant it to the first; TestTasksAreGrantedAtTheirRate notices"},
	{"the consumer does not learn that a head fits which a rate keeps back", "internal/lock/write.go", "(moved || rated || !w", "(moved || rated && false || !w",
		"others ask for the lock, and grant it to the head; TestRuleRateKeepsNobodyForEver notices"},

	// Readers and a writer.
	{"a downgrade keeps all permits", giveback, "	h.Permits = o.req.Keep\n", "", ""},
	{"a downgrade wakes nobody", giveback, "to := o.rules.settle(now, r.withHolder(o.key, h))", "to := r.withHolder(o.key, h)", ""},
	{"a downgrade ends the lease", giveback, "to := o.rules.settle(now, r.withHolder(o.key, h))", "to := o.rules.settle(now, r.withoutHolder(o.key))", ""},
	{"a downgrade revives a lease that has expired", giveback, "case !held || h.ExpiresAt <= now.UnixMilli():", "case !held:",
		"the client sends none after the end of its lease"},
	{"a downgrade makes a new grant", giveback, "	h.Permits = o.req.Keep\n", "	h.Permits, h.Fence = o.req.Keep, r.nextFence(now)\n", ""},
	{"a reader is as large as a writer", "internal/wire/wire.go", "	case ModeRead:\n		return 1", "	case ModeRead:\n		return ModeCapacity", ""},
	{"a writer is as small as a reader", "internal/wire/wire.go", "	case ModeWrite:\n		return ModeCapacity", "	case ModeWrite:\n		return 1", ""},

	// Rules of the client.
	{"the deadline is counted from the answer", client, "deadline := provedUntil(sent, answer)", "deadline := provedUntil(c.now(), answer)", ""},
	{"a renewal's deadline is counted from the answer", client, "if proved := provedUntil(sent, answer); proved", "if proved := provedUntil(func() reading { _ = sent; return l.client.now() }(), answer); proved", ""},
	{"a lease lasts twice as long as was answered", client, "return sent.add(remaining - remaining/rateMargin)", "return sent.add(2 * remaining)", ""},
	{"a loss is ignored", client, "	if more <= 0 {\n		l.stop(l.ranOut())\n	}\n", "", ""},
	{"no renewals", client, "	case <-timer.C:\n		}\n		ctx, cancel", "	case <-time.After(1000 * time.Hour):\n		}\n		ctx, cancel", "the checks are of safety: a lease that ends too early is the client's own loss"},
	{"each poll has another secret", acquires, "	sent, a.sent = a.client.now(), time.Now()\n", "	sent, a.sent = a.client.now(), time.Now()\n	a.request.Lease = rand.Text()\n", "each poll is a waiter of its own, and each answer is right"},

	// Crash points and duties of the consumer.
	{"timers are not set", consumer, "failures := c.arm(work, derived)", "var failures []failure", "the next caller finds the expired lease"},
	{"failed work is forgotten", consumer, "for _, i := range c.deferJobs(ctx, failures) {", "for _, i := range c.deferJobs(ctx, nil) {", ""},
	{"a batch is done although it failed", consumer, "bad[i] = true", "bad[i] = false", ""},
	{"no retry of a failed callback", notifier, "			failed = err\n			n.failed(ctx, \"callback of a grant was not delivered\"", "			n.failed(ctx, \"callback of a grant was not delivered\"", ""},
	{"told is stored before the callback is sent", notifier, "	*seen = attempt.Seen\n", "	*seen = attempt.Seen\n	if *seen, err = n.coordinator.MarkTold(ctx, ref, l.Tokens, *seen); err != nil {\n		return err\n	}\n", ""},
	{"the lease of a live task is ended on a repeated callback", notifier, "if attempt.First && gone {", "if gone {",
		"no run of two million operations had it; TestCrashPointsAtOnce, TestLostMark and TestCrashPointsOfASet notice"},
	{"all events of a lease have one id", "internal/stream/write.go", "events.ID(w.Lock, c.Lease.Fence, e.DetailType())", "events.ID(w.Lock, c.Lease.Fence, \"\")", ""},
}
