package wire

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
)

// ops is the table of operations.
var ops = []struct {
	op           Op
	method, path string // of the HTTP route; {name} stands for the lock's name
	function     Op     // the operation whose Lambda function also serves this one
}{
	{OpAcquire, "POST", "/v1/locks/{name}/acquire", OpAcquire},
	{OpRenew, "POST", "/v1/locks/{name}/renew", OpRenew},
	{OpRelease, "POST", "/v1/locks/{name}/release", OpRelease},
	{OpForceRelease, "POST", "/v1/locks/{name}/force-release", OpForceRelease},
	{OpStatus, "GET", "/v1/locks/{name}", OpStatus},
	{OpList, "GET", "/v1/locks", OpStatus},
}

// Ops lists every operation.
func Ops() []Op {
	list := make([]Op, len(ops))
	for i, row := range ops {
		list[i] = row.op
	}
	return list
}

// Route returns the operation's HTTP method and path. The path has {name} in place of the lock's name. Both are empty if there
// is no such operation.
func (o Op) Route() (method, path string) {
	for _, row := range ops {
		if row.op == o {
			return row.method, row.path
		}
	}
	return "", ""
}

// Function returns the operation after which the Lambda function that serves o is named: status for list, o for the others. It
// is empty if there is no such operation.
func (o Op) Function() Op {
	for _, row := range ops {
		if row.op == o {
			return row.function
		}
	}
	return ""
}
