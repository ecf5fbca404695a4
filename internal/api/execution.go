package api

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// checkExecution returns what is wrong with the ARN of an execution to which a lease is to belong, or "". Every caller may bind a
// lease to any execution of the state machines that the deployment lists, and to no other. The ARN of a child execution of a
// Distributed Map has NAME/LABEL in place of the state machine's NAME; it counts as an execution of that state machine.
func (a *API) checkExecution(arn, function string) string {
	parts, own := strings.Split(arn, ":"), strings.Split(function, ":")
	if len(arn) > wire.MaxExecution {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed: send the ARN of an execution ($$.Execution.Id)", len(arn), wire.MaxExecution)
	}
	if len(parts) > 5 && parts[2] == "states" && parts[5] == "express" {
		return "is one of an Express workflow, whose end nobody can look up; use a Standard workflow, or a TTL"
	}
	if len(parts) != 8 || parts[0] != "arn" || parts[2] != "states" || parts[5] != "execution" || !isResourceName(parts[7]) {
		return fmt.Sprintf("is %q; send the ARN of an execution ($$.Execution.Id)", brief([]byte(arn)))
	}
	machine, label, child := strings.Cut(parts[6], "/")
	if !isResourceName(machine) || child && !isResourceName(label) {
		return fmt.Sprintf("is %q; send the ARN of an execution ($$.Execution.Id)", brief([]byte(arn)))
	}
	if len(own) > 4 && (parts[1] != own[1] || parts[3] != own[3] || parts[4] != own[4]) {
		return fmt.Sprintf("is in partition %q, region %q, account %q; its end is heard of only in the coordinator's own: %q, %q, %q",
			parts[1], parts[3], parts[4], own[1], own[3], own[4])
	}
	if !slices.ContainsFunc(a.machines, func(pattern string) bool { return matches(pattern, machine) }) {
		return fmt.Sprintf("is of the state machine %q, to which this deployment binds no leases; list it in StateMachines", machine)
	}
	return ""
}

// matches reports whether a pattern matches the name of a state machine. A "*" at the end of a pattern matches any rest.
func matches(pattern, machine string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == machine || open && strings.HasPrefix(machine, prefix)
}

// isResourceName reports whether s can be the name of a state machine, of a Map state's label or of an execution.
func isResourceName(s string) bool {
	const bars = " <>{}[]?*\"#%\\^|~`$&,;:/"
	return s != "" && utf8.RuneCountInString(s) <= 80 && !strings.ContainsAny(s, bars) &&
		!strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}
