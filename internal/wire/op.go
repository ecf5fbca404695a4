package wire

import "strings"

// An Op is an operation of the API: the last part of its route, the Op of a client's request, and op in logs and metrics.
type Op string

// The operations.
const (
	OpAcquire      Op = "acquire"
	OpRenew        Op = "renew"
	OpRelease      Op = "release"
	OpForceRelease Op = "force-release"
	OpStatus       Op = "status"
	OpList         Op = "list"
	OpHistory      Op = "history"
	OpRules        Op = "rules"
	OpRule         Op = "rule"
	OpPutRule      Op = "put-rule"
	OpDeleteRule   Op = "delete-rule"

	OpAcquireSet Op = "acquire-set"
	OpRenewSet   Op = "renew-set"
	OpReleaseSet Op = "release-set"
)

// ops is the table of operations.
var ops = []struct {
	op           Op
	method, path string // of the HTTP route; {name} stands for the lock's name, {scope} for a pattern of names, {prefix} for the prefix of a rule
	function     Op     // the operation whose Lambda function also serves this one
}{
	{OpAcquire, "POST", "/v1/locks/{name}/acquire", OpAcquire},
	{OpRenew, "POST", "/v1/locks/{name}/renew", OpRenew},
	{OpRelease, "POST", "/v1/locks/{name}/release", OpRelease},
	{OpForceRelease, "POST", "/v1/locks/{name}/force-release", OpForceRelease},
	{OpStatus, "GET", "/v1/locks/{name}", OpStatus},
	{OpList, "GET", "/v1/locks", OpStatus},
	{OpHistory, "GET", "/v1/history/{name}", OpStatus},
	{OpRules, "GET", "/v1/rules", OpRules},
	{OpRule, "GET", "/v1/rules/{prefix}", OpRules},
	{OpPutRule, "PUT", "/v1/rules/{prefix}", OpRules},
	{OpDeleteRule, "DELETE", "/v1/rules/{prefix}", OpRules},
	{OpAcquireSet, "POST", "/v1/sets/{scope}/acquire", OpAcquire},
	{OpRenewSet, "POST", "/v1/sets/{scope}/renew", OpRenew},
	{OpReleaseSet, "POST", "/v1/sets/{scope}/release", OpRelease},
}

// Ops lists every operation.
func Ops() []Op {
	list := make([]Op, len(ops))
	for i, row := range ops {
		list[i] = row.op
	}
	return list
}

// OfSet returns the operation on a set that the same function serves, or "".
func (o Op) OfSet() Op {
	for _, row := range ops {
		if row.function == o && strings.Contains(row.path, "{scope}") {
			return row.op
		}
	}
	return ""
}

// IsSet reports whether the operation is on a set of locks.
func (o Op) IsSet() bool { return o.Function().OfSet() == o && o != "" }

// Route returns the operation's HTTP method and path. The path has {name} in place of the lock's name, {scope} in place of the set's scope, or
// {prefix} in place of that of a rule. Both are empty if there is no such operation.
func (o Op) Route() (method, path string) {
	for _, row := range ops {
		if row.op == o {
			return row.method, row.path
		}
	}
	return "", ""
}

// OfRules reports whether the operation is about prefix rules, and names a prefix instead of a lock.
func (o Op) OfRules() bool { return o.Function() == OpRules }

// Named reports whether a request names a lock or a prefix: those for lists and sets do not.
func (o Op) Named() bool { return o != OpList && o != OpRules && !o.IsSet() }

// Function returns the operation after which the Lambda function that serves o is named: status for list and history, rules for all operations on
// prefix rules, the operation on one lock for that on a set, o for the others. It is empty if there is no such operation.
func (o Op) Function() Op {
	for _, row := range ops {
		if row.op == o {
			return row.function
		}
	}
	return ""
}

// Together lists the operations that the Lambda function of o serves, of which a direct invocation names one in the field op. Those on sets are
// known by their field locks.
func (o Op) Together() (list []Op) {
	for _, row := range ops {
		if row.function == o.Function() && !strings.Contains(row.path, "{scope}") {
			list = append(list, row.op)
		}
	}
	return list
}
