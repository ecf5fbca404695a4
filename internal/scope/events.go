package scope

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// NoEvents stands for no lock at all, as the only entry of a list of prefixes.
const NoEvents = "-"

// CheckEvents returns what is wrong with a list of prefixes of the locks whose events are published, or "". An empty list stands for all
// locks.
func CheckEvents(prefixes []string) string {
	if slices.Contains(prefixes, NoEvents) {
		if len(prefixes) > 1 {
			return fmt.Sprintf("%q, which stands for no events, is beside prefixes; give it alone, or leave it out", NoEvents)
		}
		return ""
	}
	for _, p := range prefixes {
		if problem := wire.CheckName(p); problem != "" {
			return fmt.Sprintf("%q %s; give the beginning of locks' names, such as deploy: without a *", p, problem)
		}
	}
	return ""
}

// Events reads a list of prefixes, separated by commas, and returns which locks it includes. "" and "*" include all, and [NoEvents] none.
func Events(list string) (includes func(lock string) bool, err error) {
	if list == "" || list == "*" {
		return func(string) bool { return true }, nil
	}
	prefixes := strings.Split(list, ",")
	if problem := CheckEvents(prefixes); problem != "" {
		return nil, fmt.Errorf("%s", problem)
	}
	if list == NoEvents {
		return func(string) bool { return false }, nil
	}
	return func(lock string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(lock, p) })
	}, nil
}
