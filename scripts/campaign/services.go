package main

import (
	"crypto/md5" //nolint:gosec // what SQS answers
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Services is a fake of the queues of SQS, of an event bus of EventBridge, and of the tasks of Step Functions, in the memory of the
// round's process, which outlives those that it kills. It speaks the protocol of the SDK's clients. It keeps what it was given.
type services struct {
	mu       sync.Mutex
	queues   map[string][]*message // by the last part of the queue's URL
	sent     int
	handles  int
	events   []history.Event
	seen     map[history.Event]int
	rules    map[ruleWrite]bool // changes of rules that there was an event of
	tasks    map[string]*task   // by token
	deadBody []string
	crash    func(after bool) // is called before and after each request of the stream's process
}

// A message is a message of a queue.
type message struct {
	id, body, handle string
	visible          time.Time
	delayed          bool // it was not received yet
}

// A task is a task of a state machine that waits with a token.
type task struct {
	done   chan struct{}
	status string // succeeded or failed; empty while it waits
	fence  int64  // of the grant that it was told of
}

func newServices() *services {
	return &services{queues: map[string][]*message{}, seen: map[history.Event]int{}, rules: map[ruleWrite]bool{}, tasks: map[string]*task{}, crash: func(bool) {}}
}

// visibility is how long a message that was received is not received again.
const visibility = 3 * time.Second

// input is what requests have that the stream's consumer and expirer send.
type input struct {
	QueueURL     string `json:"QueueUrl"`
	MessageBody  string
	DelaySeconds int
	Entries      json.RawMessage
	Receipt      string `json:"ReceiptHandle"`
	TaskToken    string `json:"taskToken"`
	Output       string `json:"output"`
	Error        string `json:"error"`
}

// ServeHTTP implements [http.Handler].
func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	var in input
	if err != nil || json.Unmarshal(body, &in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	target := r.Header.Get("X-Amz-Target")
	s.crash(false)
	out, fault := s.do(target[strings.LastIndexByte(target, '.')+1:], in)
	s.crash(true)
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if fault != "" {
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]string{"__type": fault, "message": fault}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (s *services) do(operation string, in input) (out any, fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := ""
	if u, err := url.Parse(in.QueueURL); err == nil {
		queue = path.Base(u.Path)
	}
	switch operation {
	case "SendMessage":
		s.deadBody = append(s.deadBody, in.MessageBody)
		return s.send(queue, in.MessageBody, in.DelaySeconds), ""
	case "SendMessageBatch":
		var entries []struct {
			ID           string `json:"Id"`
			MessageBody  string
			DelaySeconds int
		}
		_ = json.Unmarshal(in.Entries, &entries)
		list := []any{}
		for _, e := range entries {
			sent := s.send(queue, e.MessageBody, e.DelaySeconds)
			sent["Id"] = e.ID
			list = append(list, sent)
		}
		return map[string]any{"Successful": list, "Failed": []any{}}, ""
	case "ReceiveMessage":
		return map[string]any{"Messages": s.receive(queue)}, ""
	case "DeleteMessage":
		for i, m := range s.queues[queue] {
			if m.handle == in.Receipt {
				s.queues[queue] = append(s.queues[queue][:i:i], s.queues[queue][i+1:]...)
				break
			}
		}
		return struct{}{}, ""
	case "PutEvents":
		return s.put(in.Entries), ""
	case "SendTaskSuccess":
		return s.finish(in.TaskToken, "succeeded", in.Output)
	case "SendTaskFailure":
		return s.finish(in.TaskToken, "failed", in.Error)
	}
	return nil, "UnknownOperationException"
}

func (s *services) send(queue, body string, delay int) map[string]any {
	s.sent++
	sum := md5.Sum([]byte(body)) //nolint:gosec // what SQS answers
	m := &message{id: fmt.Sprint("m", s.sent), body: body, visible: time.Now().Add(time.Duration(delay) * time.Second), delayed: true}
	s.queues[queue] = append(s.queues[queue], m)
	return map[string]any{"MessageId": m.id, "MD5OfMessageBody": hex.EncodeToString(sum[:])}
}

func (s *services) receive(queue string) []any {
	list := []any{}
	for _, m := range s.queues[queue] {
		if len(list) == 10 || time.Now().Before(m.visible) {
			continue
		}
		s.handles++
		m.handle, m.visible, m.delayed = fmt.Sprint("h", s.handles), time.Now().Add(visibility), false
		sum := md5.Sum([]byte(m.body)) //nolint:gosec // what SQS answers
		list = append(list, map[string]any{"MessageId": m.id, "Body": m.body, "ReceiptHandle": m.handle, "MD5OfBody": hex.EncodeToString(sum[:])})
	}
	return list
}

// hurry makes messages that wait for their time visible now, so that the end of a round does not wait for jobs that were deferred for
// minutes. A timer that comes early is set again.
func (s *services) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.queues {
		for _, m := range list {
			if m.delayed {
				m.visible = time.Now()
			}
		}
	}
}

// put keeps the events of a PutEvents.
func (s *services) put(entries json.RawMessage) any {
	var list []struct{ DetailType, Detail string }
	_ = json.Unmarshal(entries, &list)
	out := []any{}
	for i, e := range list {
		event, err := events.Decode(e.DetailType, []byte(e.Detail))
		if err != nil {
			out = append(out, map[string]any{"ErrorCode": "MalformedDetail", "ErrorMessage": err.Error()})
			continue
		}
		l := event.Subject()
		if change, ok := event.(events.RuleChanged); ok {
			s.rules[ruleWrite{lock.RulePrefix(change.Prefix), change.Rev}] = true
			out = append(out, map[string]any{"EventId": "rule-" + change.ID})
			continue
		}
		kind := l.ID[strings.LastIndexByte(l.ID, '/')+1:]
		got := history.Event{Lock: l.Lock, Type: kind, Fence: l.Fence, ID: l.ID}
		if s.seen[got]++; s.seen[got] == 1 {
			s.events = append(s.events, got)
		}
		out = append(out, map[string]any{"EventId": fmt.Sprint("e", len(s.events), "-", i)})
	}
	return map[string]any{"FailedEntryCount": 0, "Entries": out}
}

// finish ends a task. A second callback for a token finds no task, as with Step Functions.
func (s *services) finish(token, status, output string) (any, string) {
	t := s.task(token)
	if t.status != "" {
		return nil, "TaskTimedOut"
	}
	var granted struct {
		Fence int64 `json:"fence"`
	}
	_ = json.Unmarshal([]byte(output), &granted) // a failure has none
	t.status, t.fence = status, granted.Fence
	close(t.done)
	return struct{}{}, ""
}

// task returns the task with a token. It needs the mutex.
func (s *services) task(token string) *task {
	t := s.tasks[token]
	if t == nil {
		t = &task{done: make(chan struct{})}
		s.tasks[token] = t
	}
	return t
}

// wait waits for the callback of a token, for as long as the request lasts, and at most 25 s.
func (s *services) wait(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	t := s.task(r.FormValue("token"))
	s.mu.Unlock()
	status := "waits"
	select {
	case <-t.done:
		status = t.status
	case <-time.After(25 * time.Second):
	case <-r.Context().Done():
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"status": status})
}
