package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/lockclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, test func(t *testing.T, f *fakeSQS, n *Notifier)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		p, err := parsePrefix(Config{Prefix: testPrefix})
		if err != nil {
			t.Fatal(err)
		}
		n := newNotifier(f, p, func() {})
		test(t, f, n)
		f.do(func() { f.fail = nil })
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if left := f.urls(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func listen(t *testing.T, n *Notifier) lockclient.Listener {
	t.Helper()
	l, err := n.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func address(t *testing.T, l lockclient.Listener) (queue, id string) {
	t.Helper()
	queue, id, err := l.Address()
	if err != nil {
		t.Fatal(err)
	}
	return queue, id
}

// woken reports whether a listener was woken, now that nothing moves.
func woken(l lockclient.Listener) bool {
	synctest.Wait()
	select {
	case <-l.Wake():
		return true
	default:
		return false
	}
}

// Several waits of a process share a queue. A message wakes the one that it is for, and is deleted.
func TestMessages(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		a, b := listen(t, n), listen(t, n)
		queue, id := address(t, a)
		if other, otherID := address(t, b); other != queue || otherID == id || !strings.HasPrefix(queue, testPrefix) {
			t.Errorf("queues %s %s, ids %s %s", queue, other, id, otherID)
		}
		f.send(queue, granted(id))
		if !woken(a) || woken(b) {
			t.Error("the message did not wake its wait, and no other")
		}
		f.send(queue, granted(id)) // twice
		f.send(queue, granted(id))
		if !woken(a) || woken(a) {
			t.Error("two messages did not wake their wait once")
		}
		b.Stop()
		_, id = address(t, b)
		for _, body := range []string{granted(id), granted("another"), "", "null", "[]", `{"id":7}`, "text"} { // late, another's, not the coordinator's
			f.send(queue, body)
		}
		if woken(a) || woken(b) {
			t.Error("a message woke another wait")
		}
		f.do(func() {
			if left := f.queues[queue].messages; len(left) > 0 {
				t.Errorf("%d messages are left", len(left))
			}
		})
		a.Stop()
	})
}

// While something waits there are three requests a minute, and none otherwise. The time until which the owner lives is moved on.
func TestRequests(t *testing.T) {
	for _, waits := range []int{1, 10, 100} {
		run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
			var listeners []lockclient.Listener
			for range waits {
				listeners = append(listeners, listen(t, n))
			}
			if n, all := f.count("CreateQueue"); n != 1 || all > 2 {
				t.Errorf("%d queues in %d requests", n, all)
			}
			queue, _ := address(t, listeners[0])
			time.Sleep(time.Second) // so that no poll ends at the end of a minute
			synctest.Wait()
			f.count("")
			for range 13 * 60 {
				time.Sleep(time.Minute)
				synctest.Wait()
				polls, all := f.count("ReceiveMessage")
				if polls > 3 || all > 4 {
					t.Fatalf("%d requests in a minute", all)
				}
				f.do(func() {
					alive, err := time.Parse(time.RFC3339, f.queues[queue].tags[aliveTag])
					if left := time.Until(alive); err != nil || left < aliveFor/2-time.Minute || left > aliveFor {
						t.Errorf("the owner lives for %v, %v", left, err)
					}
				})
			}
			for _, l := range listeners {
				l.Stop()
			}
			time.Sleep(longPoll)
			f.count("")
			time.Sleep(time.Hour)
			if _, all := f.count(""); all > 0 {
				t.Errorf("%d requests when nothing waits", all)
			}
			l := listen(t, n) // it is read again
			queue, id := address(t, l)
			f.send(queue, granted(id))
			if !woken(l) {
				t.Error("not woken")
			}
			l.Stop()
		})
	}
}

// A queue that is full of old messages is emptied, and a new message is heard.
func TestOldMessages(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		l := listen(t, n)
		queue, _ := address(t, l)
		l.Stop()
		time.Sleep(time.Minute)
		for i := range 1234 {
			f.send(queue, granted(fmt.Sprint("old", i)))
		}
		time.Sleep(10 * time.Second)
		l = listen(t, n)
		_, id := address(t, l)
		f.send(queue, granted(id))
		if !woken(l) {
			t.Error("not woken")
		}
		time.Sleep(5 * time.Second)
		f.do(func() {
			if left := len(f.queues[queue].messages); left > 0 {
				t.Errorf("%d messages are left", left)
			}
		})
		l.Stop()
	})
}

// Messages that cannot be deleted come again, wake a wait again, and are gone after a minute.
func TestMessagesCannotBeDeleted(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		l := listen(t, n)
		f.do(func() {
			f.fail = func(op string) error {
				if op == "DeleteMessageBatch" {
					return denied()
				}
				return nil
			}
		})
		queue, id := address(t, l)
		f.send(queue, granted(id))
		if !woken(l) {
			t.Error("not woken")
		}
		time.Sleep(2 * time.Second)
		if !woken(l) {
			t.Error("not woken by the repetition")
		}
		time.Sleep(time.Minute)
		f.count("")
		time.Sleep(time.Minute)
		if polls, all := f.count("ReceiveMessage"); polls > 3 || all != polls {
			t.Errorf("%d requests in a minute", all)
		}
		l.Stop()
	})
}

// A queue that is deleted under its owner is replaced, under another name, and the waits are woken to say so.
func TestQueueDeleted(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		l := listen(t, n)
		first, id := address(t, l)
		remove := func(url string) {
			if _, err := f.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &url}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		remove(first)
		if !woken(l) {
			t.Fatal("not woken")
		}
		second, sameID := address(t, l)
		if second == first || sameID != id {
			t.Errorf("queues %s %s, ids %s %s", first, second, id, sameID)
		}
		f.send(second, granted(id))
		if !woken(l) {
			t.Error("not woken by a message")
		}
		time.Sleep(20 * time.Second) // who deletes it again at once wants it so: the waits poll
		remove(second)
		time.Sleep(10 * time.Second)
		if _, _, err := l.Address(); !woken(l) || !errors.Is(err, errGone) {
			t.Errorf("error %v", err)
		}
		l.Stop()
		l = listen(t, n) // the next wait makes another
		if third, _ := address(t, l); third == second {
			t.Error("the deleted queue is used")
		}
		l.Stop()
		time.Sleep(24 * time.Hour) // the process sleeps, and a sweep takes the queue
		third := f.urls()[0]
		remove(third)
		l = listen(t, n)
		if fourth, _ := address(t, l); fourth == third {
			t.Error("the deleted queue is used")
		}
		l.Stop()
	})
}

// A new queue may be unknown for some time.
func TestNewQueueIsUnknown(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		began := time.Now()
		f.fail = func(op string) error {
			if op == "ReceiveMessage" && time.Since(began) < 3*time.Second {
				_, err := f.queue(nil)
				return err
			}
			return nil
		}
		l := listen(t, n)
		time.Sleep(5 * time.Second)
		queue, id := address(t, l)
		f.send(queue, granted(id))
		if !woken(l) {
			t.Error("not woken")
		}
		l.Stop()
	})
}

// Without a permission waits poll, from the start or later, and say which permission is missing.
func TestDenied(t *testing.T) {
	for _, op := range []string{"CreateQueue", "ReceiveMessage"} {
		run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
			f.fail = func(o string) error {
				if o == op {
					return denied()
				}
				return nil
			}
			l, err := n.Listen(t.Context())
			if op != "CreateQueue" {
				if !woken(l) {
					t.Fatal("not woken")
				}
				_, _, err = l.Address()
				l.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), "AccessDenied") || !strings.Contains(err.Error(), "GrantNotify") {
				t.Errorf("error %v", err)
			}
			if op != "CreateQueue" {
				return
			}
			f.count("")
			if _, again := n.Listen(t.Context()); again == nil || again.Error() != err.Error() {
				t.Errorf("error %v", again)
			}
			if _, all := f.count(""); all > 0 {
				t.Errorf("%d requests of the next wait", all)
			}
			time.Sleep(giveUpFor + time.Second) // the permission may have been given
			f.do(func() { f.fail = nil })
			listen(t, n).Stop()
		})
	}
}

// SQS fails for some seconds: the waits hear messages afterwards. It fails for longer: they poll.
func TestSQSIsUnavailable(t *testing.T) {
	for outage, survives := range map[time.Duration]bool{5 * time.Second: true, time.Minute: false} {
		run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
			l := listen(t, n)
			queue, id := address(t, l)
			synctest.Wait() // it is read
			f.do(func() {
				f.fail = func(op string) error {
					if op == "ReceiveMessage" {
						return broken()
					}
					return nil
				}
			})
			time.Sleep(21 * time.Second)
			time.Sleep(outage)
			_, all := f.count("")
			f.do(func() { f.fail = nil })
			time.Sleep(3 * time.Second)
			f.send(queue, granted(id))
			_, _, err := l.Address()
			if !woken(l) || (err == nil) != survives {
				t.Errorf("after %v: %v", outage, err)
			}
			if all > 12 {
				t.Errorf("%d requests in the outage", all)
			}
			l.Stop()
		})
	}
}

// Outages that pass are forgotten.
func TestShortOutages(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		l := listen(t, n)
		for range 3 {
			synctest.Wait() // it is read
			f.do(func() {
				f.fail = func(op string) error {
					if op == "ReceiveMessage" {
						return broken()
					}
					return nil
				}
			})
			time.Sleep(26 * time.Second)
			f.do(func() { f.fail = nil })
			time.Sleep(3 * time.Second)
		}
		if _, _, err := l.Address(); err != nil {
			t.Error(err)
		}
		l.Stop()
	})
}

// Waits that begin together make one queue, in one request.
func TestWaitsBeginTogether(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		f.slow = time.Second
		for range 100 {
			go func() {
				l, err := n.Listen(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				l.Stop()
			}()
		}
		time.Sleep(3 * time.Second)
		if made, all := f.count("CreateQueue"); made != 1 || all != 2 { // and one long poll
			t.Errorf("%d queues in %d requests", made, all)
		}
	})
}

// The answer to CreateQueue is lost, or late. The queue is used by the next wait, or deleted by Close.
func TestQueueMadeUnheard(t *testing.T) {
	for _, again := range []bool{true, false} {
		run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
			f.lost = "CreateQueue"
			if _, err := n.Listen(t.Context()); !errors.Is(err, errLost) {
				t.Errorf("error %v", err)
			}
			f.do(func() { f.lost = "" })
			if again {
				listen(t, n).Stop()
			}
			if urls := f.urls(); len(urls) != 1 {
				t.Errorf("queues %v", urls)
			}
		})
	}
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) { // the wait gives up before the answer
		f.slow = 3 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Listen(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// Close ends listening, and deletes the queue once. Later waits poll.
func TestClose(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		l := listen(t, n)
		synctest.Wait()
		closed := make(chan error)
		for range 3 {
			go func() { closed <- n.Close(t.Context()) }()
		}
		for range 3 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		if _, _, err := l.Address(); !woken(l) || !errors.Is(err, errClosed) {
			t.Errorf("error %v", err)
		}
		if _, err := n.Listen(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("error %v", err)
		}
		if deleted, _ := f.count("DeleteQueue"); deleted != 1 {
			t.Errorf("deleted %d times", deleted)
		}
		l.Stop()
	})
}

// Close says which queue it could not delete, and obeys its context.
func TestCloseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		p, _ := parsePrefix(Config{Prefix: testPrefix})
		n := newNotifier(f, p, func() {})
		queue, _ := address(t, listen(t, n))
		f.do(func() { f.fail = func(string) error { return denied() } })
		if err := n.Close(t.Context()); err == nil || !strings.Contains(err.Error(), queue) {
			t.Errorf("error %v", err)
		}

		f = newFake(t)
		f.slow = 5 * time.Second
		n = newNotifier(f, p, func() {})
		go func() { _, _ = n.Listen(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if err := n.Close(t.Context()); err != nil || len(f.urls()) > 0 {
			t.Errorf("error %v, queues %v", err, f.urls())
		}
	})
}

// The queue is made in the account of the credentials; the coordinator sends to its own only.
func TestAnotherAccount(t *testing.T) {
	run(t, func(t *testing.T, f *fakeSQS, n *Notifier) {
		f.account = strings.Replace(testAccount, "123456789012", "210987654321", 1)
		_, err := n.Listen(t.Context())
		if err == nil || !strings.Contains(err.Error(), "123456789012") || !strings.Contains(err.Error(), "210987654321") {
			t.Errorf("error %v", err)
		}
	})
}

func TestConfig(t *testing.T) {
	region := aws.Config{Region: "eu-west-3"}
	for _, test := range []struct {
		cfg    Config
		region string // "": an error
		want   string // part of the error
	}{
		{Config{Prefix: testPrefix}, "eu-west-1", ""},
		{Config{Prefix: "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/h-notify-", AWS: region}, "cn-north-1", ""},
		{Config{Prefix: "http://127.0.0.1:4566/000000000000/h-notify-", AWS: region}, "eu-west-3", ""},
		{Config{Prefix: "http://127.0.0.1:4566/000000000000/h-notify-"}, "", "region"},
		{Config{}, "", "NotifyPrefix"},
		{Config{Prefix: "h-notify-"}, "", "no URL"},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/h-notify-"}, "", "account"},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/1/"}, "", "name"},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/1/a.b-"}, "", "name"},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/1/a/b-"}, "", "name"},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/1/" + strings.Repeat("a", 60)}, "eu-west-1", ""},
		{Config{Prefix: "https://sqs.eu-west-1.amazonaws.com/1/" + strings.Repeat("a", 61)}, "", "at most 60"},
	} {
		n, err := New(test.cfg)
		if test.region == "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q: %v", test.cfg.Prefix, err)
			}
			continue
		}
		if err != nil || n.prefix.region != test.region {
			t.Errorf("%q: %+v, %v", test.cfg.Prefix, n, err)
			continue
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
