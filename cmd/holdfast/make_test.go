//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// make run ends without an error at Ctrl-C, has the minimum TTL of AWS, and names LISTEN when the address is in use.
func TestMakeRun(t *testing.T) {
	run := func(args ...string) (*exec.Cmd, *output) {
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"--no-print-directory", "-C", "../..", "run"}, args...)...)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HOLDFAST_") || strings.HasPrefix(v, "MAKE") })
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is a signal to all
		out := newOutput()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	cmd, out := run("LISTEN=127.0.0.1:0")
	<-out.written
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(out.String())
	if address == "" || !strings.Contains(out.String(), "in memory") || strings.Contains(out.String(), "--min-ttl") {
		t.Errorf("it printed %s", out)
	}
	second, refused := run("LISTEN=" + address)
	if err := second.Wait(); err == nil || !strings.Contains(refused.String(), "address already in use; choose another address with make run LISTEN=HOST:PORT") {
		t.Errorf("a second one: %v: %s", err, refused)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // make ends by the signal
	if strings.Contains(out.String(), "Error") {
		t.Errorf("after Ctrl-C: %s", out)
	}
}

// make help lists every target that has a description.
func TestMakeHelp(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", "help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	source, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`(?m)^([^\s:#=]+):.*## `).FindAllStringSubmatch(string(source), -1)
	if len(targets) < 10 {
		t.Errorf("found %d targets", len(targets))
	}
	for _, target := range targets {
		if !regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(target[1]) + ` `).Match(out) {
			t.Errorf("make help does not list %s", target[1])
		}
	}
}

// What make run compiles has nothing of the AWS SDK, whose clients take as long to compile as all the rest.
func TestMakeRunCompilesNoSDK(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../scripts/run").Output()
	if err != nil || !strings.Contains(string(out), "internal/local\n") {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.Contains(line, "aws-sdk-go-v2") || strings.Contains(line, "smithy") {
			t.Errorf("it compiles %s", line)
		}
	}
}

// The hosted workflow runs the targets of .ci/run.
func TestHostedWorkflowRunsTheSameTargets(t *testing.T) {
	targets := func(file, pattern, separators string) []string {
		data, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(data), -1) {
			list = append(list, strings.FieldsFunc(m[1], func(r rune) bool { return strings.ContainsRune(separators, r) })...)
		}
		return list
	}
	local := targets(".ci/run", `(?m)^(?:make|for target in) ([a-z0-9 -]+)`, " ")
	if hosted := targets(".github/workflows/ci.yml", `target: \[(.*)\]`, ", "); len(hosted) < 2 || !slices.Equal(hosted, local) {
		t.Errorf("ci.yml runs %q, .ci/run %q", hosted, local)
	}
}
