package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/history"
)

// Mixed versions: with --base, half of a round's processes are those of another version, on the same table: coordinators, clients and
// the stream's process. Each process that is killed is replaced by one of the other version, as in a rollout or a rollback. Each version
// brings the campaign's program of its own, which has its handlers, clients and consumers inside. So what both must agree on is what the
// campaign gives to a process: the JSON of its role's configuration (coordinatorConfig, consumerConfig, clientConfig), the line "ready",
// the commands on its input, and the lines that it records (see record.go). Fields are added to these, never renamed.

// A version is the programs of one version.
type version struct {
	Name     string `json:"name"`
	Program  string `json:"program"`  // path of the campaign's program
	Holdfast string `json:"holdfast"` // path of the command holdfast
}

// The names of the two versions in figures.
const (
	versionThis = "this"
	versionBase = "base"
)

// versions are those of the rounds: this one's programs, and those in the directory base, if it is not empty.
func versions(self, holdfast, base string) ([]version, error) {
	list := []version{{versionThis, self, holdfast}}
	if base != "" {
		list = append(list, version{versionBase, filepath.Join(base, "campaign"), filepath.Join(base, "holdfast")})
	}
	for i, v := range list {
		program, err := filepath.Abs(v.Program)
		if err != nil {
			return nil, err
		}
		command, err := filepath.Abs(v.Holdfast)
		if err != nil {
			return nil, err
		}
		list[i].Program, list[i].Holdfast = program, command
	}
	return list, nil
}

// mixed is the plan of a round with two versions: few locks, so that both meet at each, and faults that replace processes.
func (c *campaign) mixed() plan {
	p := c.everything()
	p.Coordinators, p.CLI, p.Locks, p.StreamKills = 4, 2, 8, 8
	p.Sets, p.Rules = false, false // a coordinator of a version without them would grant a set in one lock, and a lock against its rule
	return p
}

// next is the version of the next process of a kind. Those of a kind take turns, from the one with index first on.
func (r *round) next(kind string, first int) version {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.versions[(first+r.started[kind])%len(r.versions)]
	r.started[kind]++
	r.ofVersion[v.Name+" "+strings.TrimRight(kind, "0123456789")]++
	return v
}

// mixedViolations finds what makes a round with two versions say nothing: a kind of process that one version did not have, or clients
// of a version that were granted nothing. s.Versions has the operations of each version's clients afterwards.
func (r *round) mixedViolations(h *history.History, s *summary) (found []string) {
	if len(r.versions) < 2 {
		return nil
	}
	granted := map[string]int{}
	for _, o := range h.Ops {
		process, _, _ := strings.Cut(o.Client, ".")
		name := r.versionOf[process]
		s.Versions[name+" operations"]++
		if o.Op == history.Acquire && o.Result == history.Granted {
			granted[name]++
		}
	}
	maps.Copy(s.Versions, r.ofVersion)
	p := r.plan
	processes := map[string]int{"coordinator": p.Coordinators, "stream": 1 + r.killCount, "http": p.HTTP, "invoke": p.Invoke, "direct": p.Direct, "cli": p.CLI}
	for _, v := range r.versions {
		if granted[v.Name] == 0 {
			found = append(found, fmt.Sprintf("mixed: no client of the version %q was granted a lock", v.Name))
		}
		for _, kind := range slices.Sorted(maps.Keys(processes)) {
			if r.ofVersion[v.Name+" "+kind] == 0 && processes[kind] >= len(r.versions) {
				found = append(found, fmt.Sprintf("mixed: no %s process was of the version %q", kind, v.Name))
			}
		}
	}
	return found
}
