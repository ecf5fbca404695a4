//go:build cloud

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	sfntypes "github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// machines are the example state machines of examples/stepfunctions, deployed with the stack.
type machines struct {
	*cloud
	sfn *sfn.Client
}

func newMachines(t *testing.T) *machines {
	c := newCloud(t)
	return &machines{c, sfn.NewFromConfig(c.aws)}
}

func (m *machines) start(example, name string, input map[string]any) (execution string) {
	m.t.Helper()
	data, err := json.Marshal(input)
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := m.sfn.StartExecution(m.t.Context(), &sfn.StartExecutionInput{
		StateMachineArn: aws.String(m.outputs["HoldfastExample"+example+"Arn"]), Name: &name, Input: aws.String(string(data)),
	})
	if err != nil {
		m.t.Fatalf("%s: %v", example, err)
	}
	return aws.ToString(out.ExecutionArn)
}

// ended waits for an execution's end.
func (m *machines) ended(execution string) *sfn.DescribeExecutionOutput {
	m.t.Helper()
	for deadline := time.Now().Add(3 * patience); ; {
		out, err := m.sfn.DescribeExecution(m.t.Context(), &sfn.DescribeExecutionInput{ExecutionArn: &execution})
		if err != nil {
			m.t.Fatal(err)
		}
		if out.Status != sfntypes.ExecutionStatusRunning {
			return out
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s still runs", execution)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (m *machines) succeeds(execution string) string {
	m.t.Helper()
	out := m.ended(execution)
	if out.Status != sfntypes.ExecutionStatusSucceeded {
		m.t.Fatalf("%s: %s: %s: %s", execution, out.Status, aws.ToString(out.Error), aws.ToString(out.Cause))
	}
	return aws.ToString(out.Output)
}

// until waits for a condition of a lock.
func (m *machines) until(client *lockclient.Client, name, what string, holds func(lockclient.Status) bool) lockclient.Status {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		s, err := client.Status(m.t.Context(), name)
		if err != nil {
			m.t.Fatal(err)
		}
		if holds(s) {
			return s
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s is not %s: %+v", name, what, s)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func free(s lockclient.Status) bool { return !s.Locked && s.Waiting == 0 }

// Every example succeeds, and leaves its locks free.
func TestExamples(t *testing.T) {
	m := newMachines(t)
	client := m.root()
	for _, test := range []struct {
		example string
		input   map[string]any
		locks   []string
		fences  int
	}{
		{"GateCallback", map[string]any{"lock": "example:gate"}, []string{"example:gate"}, 1},
		{"GateCallbackJsonata", map[string]any{"lock": "example:jsonata"}, []string{"example:jsonata"}, 0},
		{"GateRetry", map[string]any{"lock": "example:retry"}, []string{"example:retry"}, 1},
		{"CriticalSection", map[string]any{"lock": "example:section"}, []string{"example:section"}, 1},
		{"Construct", map[string]any{"lock": "example:construct"}, []string{"example:construct"}, 1},
		{"ConstructTogether", map[string]any{"lock": "example:together"}, []string{"example:together", "example:shared"}, 1},
		{"LocksTogether", map[string]any{"locks": []map[string]any{{"name": "example:b"}, {"name": "example:a", "capacity": 2}}}, []string{"example:a", "example:b"}, 1},
		{"MapBounded", map[string]any{"lock": "example:map", "items": []int{1, 2, 3, 4, 5, 6}}, []string{"example:map"}, 6},
	} {
		t.Run(test.example, func(t *testing.T) {
			m := &machines{m.cloud, m.sfn}
			m.cloud = newCloud(t)
			output := m.succeeds(m.start(test.example, "once", test.input))
			if n := strings.Count(output, `"fence"`); n < test.fences {
				t.Errorf("output has %d fences: %s", n, output)
			}
			for _, l := range test.locks {
				m.until(client, l, "free", free)
			}
		})
	}
}

type worked struct {
	Done struct {
		Fence   int64 `json:"fence"`
		Started int64 `json:"started_ms"`
		Ended   int64 `json:"ended_ms"`
	} `json:"done"`
}

// A hundred executions that wait for one lock get it one by one, in the order of their arrival.
func TestHundredExecutionsTakeTurns(t *testing.T) {
	const n = 100
	m := newMachines(t)
	client := m.root()
	const name = "example:queue"
	holder, err := client.Acquire(t.Context(), name, lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var executions []string
	for i := range n { // each is in the queue before the next starts
		executions = append(executions, m.start("CriticalSection", fmt.Sprintf("turn-%d", i), map[string]any{"lock": name}))
		m.until(client, name, fmt.Sprintf("waited for by %d", i+1), func(s lockclient.Status) bool { return s.Waiting == i+1 })
	}
	released := time.Now()
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := worked{}
	last.Done.Ended = released.UnixMilli()
	var handOffs []time.Duration
	for i, e := range executions {
		var w worked
		output := m.succeeds(e)
		if err := json.Unmarshal([]byte(output), &w); err != nil || w.Done.Fence <= last.Done.Fence || w.Done.Started < last.Done.Ended {
			t.Fatalf("turn %d: %s after %+v, %v", i, output, last, err)
		}
		handOffs = append(handOffs, time.Duration(w.Done.Started-last.Done.Ended)*time.Millisecond)
		last = w
	}
	m.until(client, name, "free", free)
	slices.Sort(handOffs)
	fmt.Printf("e2e: %d executions at one lock, in order; from the end of one's work to the start of the next's: p50 %v, p99 %v\n", n, handOffs[n/2], handOffs[n-2])
}

// Executions that wait for two locks together get both in the order of their arrival, also when only one of the locks was held.
func TestSetsOfExecutionsTakeTurns(t *testing.T) {
	const n = 5
	m := newMachines(t)
	client := m.root()
	holder, err := client.Acquire(t.Context(), "example:set-b", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	locks := []map[string]any{{"name": "example:set-b"}, {"name": "example:set-a"}}
	var executions []string
	for i := range n {
		executions = append(executions, m.start("LocksTogether", fmt.Sprintf("set-%d", i), map[string]any{"locks": locks}))
		for _, name := range []string{"example:set-a", "example:set-b"} {
			m.until(client, name, fmt.Sprintf("waited for by %d", i+1), func(s lockclient.Status) bool { return s.Waiting == i+1 })
		}
	}
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	var last worked
	for i, e := range executions {
		var w worked
		output := m.succeeds(e)
		if err := json.Unmarshal([]byte(output), &w); err != nil || w.Done.Fence <= last.Done.Fence || w.Done.Started < last.Done.Ended {
			t.Fatalf("turn %d: %s after %+v, %v", i, output, last, err)
		}
		last = w
	}
	for _, name := range []string{"example:set-a", "example:set-b"} {
		m.until(client, name, "free", free)
	}
}

// The lock is released soon after an execution ends inside its critical section in any way.
func TestExecutionsThatEndInside(t *testing.T) {
	const n = 100
	for _, test := range []struct {
		how     string
		example string
		input   map[string]any
		end     func(m *machines, execution string)
		status  sfntypes.ExecutionStatus
	}{
		{"fail", "CriticalSection", map[string]any{"fail": true}, nil, sfntypes.ExecutionStatusFailed},
		{"fail in a gate", "GateCallback", map[string]any{"fail": true}, nil, sfntypes.ExecutionStatusFailed},
		{"are aborted", "CriticalSection", map[string]any{"sleep_ms": 20_000}, func(m *machines, e string) {
			if _, err := m.sfn.StopExecution(m.t.Context(), &sfn.StopExecutionInput{ExecutionArn: &e, Cause: aws.String("test")}); err != nil {
				m.t.Error(err)
			}
		}, sfntypes.ExecutionStatusAborted},
	} {
		t.Run(test.how, func(t *testing.T) {
			m := newMachines(t)
			client := m.root()
			var mu sync.Mutex
			var took []time.Duration
			var work sync.WaitGroup
			slots := make(chan bool, 8)
			for i := range n {
				slots <- true
				work.Go(func() {
					defer func() { <-slots }()
					id := strings.ReplaceAll(test.how, " ", "-") + fmt.Sprint("-", i)
					name := "example:" + id
					input := map[string]any{"lock": name}
					for k, v := range test.input {
						input[k] = v
					}
					e := m.start(test.example, id, input)
					if test.end != nil {
						m.until(client, name, "held", func(s lockclient.Status) bool { return s.Locked })
						test.end(m, e)
					}
					out := m.ended(e)
					ended := time.Now()
					if out.Status != test.status {
						t.Errorf("%s: %s", e, out.Status)
					}
					m.until(client, name, "free", free)
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(ended))
				})
			}
			work.Wait()
			slices.Sort(took)
			fmt.Printf("e2e: %d executions that %s inside: lock free after p50 %v, max %v\n", len(took), test.how, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		})
	}
}

// The check of its lease finds an ended execution whose event was missed.
func TestExecutionEndsUnheard(t *testing.T) {
	m := newMachines(t)
	client := m.root()
	functions := m.functions()
	e := m.start("CriticalSection", "unheard-other", map[string]any{"lock": "example:unheard-other"})
	m.succeeds(e) // its event was handled before the lease below began
	answer, failure := m.invoke(functions["acquire"], map[string]any{"name": "example:unheard", "lease": "unheard-lease-0123456789", "ttl_ms": 1000, "execution": e})
	if failure != "" {
		t.Fatalf("%s: %s", failure, answer)
	}
	m.until(client, "example:unheard", "held", func(s lockclient.Status) bool { return s.Locked })
	m.until(client, "example:unheard", "free", free)
}

// A waiter leaves the queue when its execution is stopped.
func TestWaitsThatEnd(t *testing.T) {
	m := newMachines(t)
	client := m.root()
	const name = "example:ends"
	holder, err := client.Acquire(t.Context(), name, lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := m.start("CriticalSection", "waits", map[string]any{"lock": name})
	m.until(client, name, "waited for", func(s lockclient.Status) bool { return s.Waiting == 1 })
	if _, err := m.sfn.StopExecution(t.Context(), &sfn.StopExecutionInput{ExecutionArn: &e}); err != nil {
		t.Fatal(err)
	}
	m.until(client, name, "waited for by nobody", func(s lockclient.Status) bool { return s.Waiting == 0 })
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.until(client, name, "free", free)
}

// functions are the names of the stack's functions.
func (m *machines) functions() map[string]string {
	return map[string]string{"acquire": m.id("Acquire"), "release": m.id("Release")}
}
