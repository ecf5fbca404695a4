//go:build stress

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// The tests start this test binary again as other processes.
const (
	childRole = "HOLDFAST_STRESS_ROLE"
	childURL  = "HOLDFAST_STRESS_URL"
	childArg  = "HOLDFAST_STRESS_ARG"
)

func TestMain(m *testing.M) {
	refuseToGuard()
	role := os.Getenv(childRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := child(role, os.Getenv(childArg)); err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		os.Exit(1)
	}
}

func child(role, arg string) error {
	client, err := lockclient.New(lockclient.Config{Endpoint: os.Getenv(childURL), RetryDelay: 100 * time.Millisecond}) // a lock that is held for milliseconds
	if err != nil {
		return err
	}
	ctx := context.Background()
	if role == "hold" {
		if _, err := client.Acquire(ctx, arg, lockclient.Options{TTL: holdTTL}); err != nil {
			return err
		}
		fmt.Println("held")
		select {} // until it is killed
	}
	for range cycles {
		if err := client.Do(ctx, "stress:counter", lockclient.Options{TTL: 10 * time.Second}, func(context.Context, *lockclient.Lease) error {
			return increment(arg)
		}); err != nil {
			return err
		}
	}
	return client.Close(ctx)
}

const (
	processes = 8
	cycles    = 100
	kills     = 50
	holdTTL   = time.Second
)

func increment(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strconv.Itoa(n+1)), 0o600)
}

func start(t *testing.T, role, url, arg string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childURL+"="+url, childArg+"="+arg)
	cmd.Stderr = os.Stderr
	return cmd
}

// Processes that race for one lock to increment an unprotected file lose nothing.
func TestStressCounter(t *testing.T) {
	url, _ := startDev(t, devCmd{}, connection{})
	file := filepath.Join(t.TempDir(), "counter")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			if err := start(t, "count", url, file).Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(processes * cycles); string(data) != want {
		t.Errorf("counted %s, want %s", data, want)
	}
	fmt.Printf("stress: %d processes x %d cycles: counter at %s, %v\n", processes, cycles, data, time.Since(began).Round(time.Second))
}

// The lock of a killed holder is granted within the TTL, the skew allowance and a second. The bound is on this
// machine's clock: a late waiter is counted, and only a lock that stays held fails the test at once.
func TestStressKill(t *testing.T) {
	url, _ := startDev(t, devCmd{}, connection{})
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	slots := make(chan struct{}, 5) // a few at a time: this measures the lock, not the scheduler
	for n := range kills {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			d, err := killAndTakeOver(t, url, fmt.Sprintf("stress:kill:%d", n))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(took)
	if len(took) != kills {
		t.Fatalf("%d of %d taken over", len(took), kills)
	}
	bound := holdTTL + lock.DefaultSkew + time.Second
	late := 0
	for _, d := range took {
		if d > bound {
			late++
		}
	}
	fmt.Printf("stress: kill -9 x %d, TTL %v: taken over after p50 %v, max %v; bound %v, %d late\n",
		kills, holdTTL, took[kills/2].Round(time.Millisecond), took[kills-1].Round(time.Millisecond), bound, late)
	if late > kills/10 {
		t.Errorf("%d of %d came later than %v", late, kills, bound)
	}
}

func killAndTakeOver(t *testing.T, url, name string) (time.Duration, error) {
	cmd := start(t, "hold", url, name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		return 0, fmt.Errorf("holder said %q: %w", line, cmd.Wait())
	}
	client, err := lockclient.New(lockclient.Config{Endpoint: url})
	if err != nil {
		return 0, err
	}
	if _, err := client.TryAcquire(t.Context(), name, lockclient.Options{}); !errors.Is(err, lockclient.ErrHeld) {
		return 0, fmt.Errorf("while it is held: %w", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		return 0, err
	}
	killed := time.Now()
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := client.Acquire(ctx, name, lockclient.Options{}); err != nil {
		return 0, err
	}
	took := time.Since(killed)
	return took, client.Close(t.Context())
}
