// Command uidemo serves the live page over locks that it makes up, for the page's browser tests and the screenshots of docs/ui.md. It prints the page's
// link, and then obeys the lines of its standard input: "locks N" makes N locks, "renew N" renews N leases and tells the page of none, "change NAME" gives a
// lock to another holder, "end NAME" ends all leases of a lock and tells the page of none, "fail STATUS CODE TEXT" makes every request fail and "work" ends that. It answers each with "ok".
package main

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/ui"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "uidemo:", err)
		os.Exit(1) //nolint:gocritic // stop only restores signals
	}
}

func run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, err := loopback.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	w := newWorld()
	page, err := ui.New(ui.Config{
		Source: w, Where: "https://a1b2c3.execute-api.eu-west-1.amazonaws.com", Every: 500 * time.Millisecond, Changed: w.changed, Log: slog.New(slog.DiscardHandler),
	}, listener.Addr().String())
	if err != nil {
		return err
	}
	fmt.Println(page.Link())
	go func() {
		defer cancel()
		for line := range lines(os.Stdin) {
			if err := w.obey(line); err != nil {
				fmt.Println("error:", err)
				continue
			}
			fmt.Println("ok")
		}
	}()
	return page.Serve(ctx, listener)
}

func lines(f *os.File) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(f); s.Scan() && yield(s.Text()); {
		}
	}
}

// obey carries out a line of the standard input.
func (w *world) obey(line string) error {
	var n, status int
	var code string
	switch verb, rest, _ := strings.Cut(line, " "); verb {
	case "locks":
		if _, err := fmt.Sscan(rest, &n); err != nil {
			return err
		}
		w.many(n)
	case "renew":
		if _, err := fmt.Sscan(rest, &n); err != nil {
			return err
		}
		w.renew(n)
	case "end":
		w.end(rest)
	case "change":
		w.change(rest)
	case "fail":
		if _, err := fmt.Sscan(rest, &status, &code); err != nil {
			return err
		}
		w.fail(&ui.Failure{Status: status, Code: code, Detail: strings.Join(strings.Fields(rest)[2:], " ")})
	case "work":
		w.fail(nil)
	default:
		return fmt.Errorf("%q is no command", verb)
	}
	return nil
}
