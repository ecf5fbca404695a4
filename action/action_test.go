package action_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

const runURL = "https://github.com/example/shop/actions/runs/42"

// with are the inputs of a step that installs the command from a release and uses a coordinator.
func with(r *release, endpoint string, more map[string]string) map[string]string {
	inputs := map[string]string{"lock": "deploy:prod", "endpoint": endpoint, "version": r.version, "releases": r.url, "attestation": "off", "run": "true"}
	maps.Copy(inputs, more)
	return inputs
}

func mustBeFree(t *testing.T, client *lockclient.Client, name string) {
	t.Helper()
	if s, err := client.Status(t.Context(), name); err != nil || s.Locked {
		t.Errorf("after the step %s is %+v, %v; it must be free", name, s, err)
	}
}

// The script runs while the lock is held, by an owner and with metadata that lead to the run, and the lock is free afterwards. The command
// comes from the release; a second step takes it from the runner's cache.
func TestActionRunsUnderTheLock(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	script := `curl -sS "$COORDINATOR/v1/locks/$HOLDFAST_LOCK" >status.json
echo "$HOLDFAST_FENCE" >fence
env >environment`
	runner.env["COORDINATOR"] = endpoint
	if code, out := runner.run(with(r, endpoint, map[string]string{"run": script})); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	status := runner.read("status.json")
	for _, want := range []string{
		`"owner":"` + runURL + `"`, `"run":"` + runURL + `"`, `"commit":"` + runner.env["GITHUB_SHA"] + `"`, `"actor":"dependabot[bot]"`,
		`"fence":` + strings.TrimSpace(runner.read("fence")),
	} {
		if !strings.Contains(status, want) {
			t.Errorf("the lock was %s; want %s", status, want)
		}
	}
	if env := runner.read("environment"); strings.Contains(env, "ghs_token_of_the_job") || strings.Contains(env, "INPUT_") {
		t.Errorf("the script's environment has the token or the inputs:\n%s", env)
	}
	mustBeFree(t, client, "deploy:prod")
	if code, out := runner.run(with(r, endpoint, nil)); code != 0 {
		t.Fatalf("the second step: exit code %d\n%s", code, out)
	}
	if got := r.downloads(); len(got) != 2 {
		t.Errorf("two steps downloaded %v", got)
	}
}

// The step's exit code is the script's: each line of it that fails ends it.
func TestActionFailsWithTheScript(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	for name, c := range map[string]struct {
		shell, run string
		code       int
	}{
		"exit":   {"bash", "exit 7", 7},
		"a line": {"bash", "(exit 3)\ntouch went-on", 3},
		"a pipe": {"bash", "(exit 4) | cat\ntouch went-on", 4},
		"unset":  {"bash", "echo $NOT_SET\ntouch went-on", 1},
		"sh":     {"sh", "(exit 5)\ntouch went-on", 5},
		"python": {"python", "import sys; sys.exit(6)", 6},
	} {
		code, out := runner.run(with(r, endpoint, map[string]string{"shell": c.shell, "run": c.run}))
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d\n%s", name, code, c.code, out)
		}
		mustBeFree(t, client, "deploy:prod")
	}
	if _, err := os.Stat(filepath.Join(runner.workspace(), "went-on")); err == nil {
		t.Error("a script went on after a line had failed")
	}
}

// A lock that others hold: the step waits for it, in their queue, or fails with exit code 123.
func TestActionWaits(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	lease, err := client.Acquire(t.Context(), "deploy:prod", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, wait := range []string{"0", "1s"} {
		code, out := runner.run(with(r, endpoint, map[string]string{"wait": wait, "run": "touch ran"}))
		if code != 123 {
			t.Errorf("wait %s: exit code %d, want 123\n%s", wait, code, out)
		}
	}
	if _, err := os.Stat(filepath.Join(runner.workspace(), "ran")); err == nil {
		t.Error("the script ran while another held the lock")
	}
	step := runner.step(with(r, endpoint, map[string]string{"wait": "10m", "run": "touch ran"}))
	if err := step.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the step to wait", func() bool {
		s, err := client.Status(t.Context(), "deploy:prod")
		return err == nil && s.Waiting == 1
	})
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := step.Wait(); err != nil {
		t.Fatal(err)
	}
	_ = runner.read("ran")
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 6000 {
		if done() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("waited two minutes for %s", what)
}

// All inputs reach the command.
func TestActionPassesInputs(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	fake := filepath.Join(t.TempDir(), "holdfast")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >arguments\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(runner.workspace(), "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	inputs := map[string]string{
		"binary": fake, "working-directory": "sub", "endpoint": "https://locks.example", "region": "eu-west-1", "ttl": "90s", "wait": "5m", "capacity": "4",
		"permits": "2", "mode": "read", "owner": "me & mine", "metadata": `{"a": "b"}`,
	}
	if code, out := runner.run(with(r, "", inputs)); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	want := "exec\ndeploy:prod\n--with-parent\n--owner=me & mine\n--metadata={\"a\": \"b\"}\n--endpoint=https://locks.example\n--region=eu-west-1\n--ttl=90s\n" +
		"--capacity=4\n--permits=2\n--read\n--wait=5m\n--\nbash\n--noprofile\n--norc\n-euo\npipefail\n"
	if got := runner.read("sub/arguments"); !strings.HasPrefix(got, want) {
		t.Errorf("the command was called with\n%s\nwant\n%s", got, want)
	}
	// Several locks, one a line.
	delete(inputs, "working-directory")
	inputs["lock"], inputs["wait"], inputs["mode"], inputs["capacity"], inputs["permits"] = "\n  customer:42\n\tapi/20 \n\n", "0", "", "", ""
	if code, out := runner.run(with(r, "", inputs)); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	if got := runner.read("arguments"); !strings.Contains(got, "--no-wait\n--lock=customer:42\n--lock=api/20\n--\n") || strings.Contains(got, "--wait") {
		t.Errorf("the command was called with\n%s", got)
	}
}

// A set of locks is held together.
func TestActionOfSeveralLocks(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	code, out := runner.run(with(r, endpoint, map[string]string{"lock": "customer:42\napi/20", "run": `echo "$HOLDFAST_LOCK $HOLDFAST_FENCES" >locks`}))
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	if got := runner.read("locks"); !strings.Contains(got, "customer:42") || !strings.Contains(got, `"api":`) {
		t.Errorf("the script had the locks %s", got)
	}
	mustBeFree(t, client, "customer:42")
	mustBeFree(t, client, "api")
}

// Text of the inputs stays text: neither the shell nor the runner takes it for commands, and it becomes no flag.
func TestActionTakesInputsAsText(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	for _, text := range []string{"$(touch injected)`touch injected`\"; touch injected; ' || touch injected #", "a\ntouch injected\n::set-env name=X::1", "--no-wait"} {
		for input := range runner.action.Inputs {
			switch input {
			case "run", "binary": // commands by their purpose
				continue
			}
			inputs := with(r, endpoint, map[string]string{"run": "echo the script ran"})
			inputs[input] = text
			_, out := runner.run(inputs)
			if _, err := os.Stat(filepath.Join(runner.workspace(), "injected")); err == nil {
				t.Fatalf("the input %s was taken for a command: %q", input, text)
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "::set-env") {
					t.Errorf("the input %s reached the runner as a command: %q", input, line)
				}
			}
		}
	}
	mustBeFree(t, client, "deploy:prod")
	for _, s := range runner.action.Runs.Steps {
		if expression.MatchString(s.Run) {
			t.Errorf("the script of %q has an expression, whose text would be part of the script", s.Name)
		}
	}
	// The script keeps its text, too: quotes, percent signs, expressions of the shell and no newline at its end.
	if code, out := runner.run(with(r, endpoint, map[string]string{"run": `printf '%s' "100% $(echo "a  b") 'c' \\" >text`})); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	if got := runner.read("text"); got != `100% a  b 'c' \` {
		t.Errorf("the script wrote %q", got)
	}
}

// Inputs that cannot be right are refused before anything is downloaded, with an annotation that names the input and says what to give.
func TestActionChecksInputs(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	for _, c := range []struct{ input, value, says string }{
		{"lock", " \n ", "input lock is empty; name a lock, such as deploy:prod, or several, a line each"},
		{"lock", "--no-wait", `input lock is "--no-wait"; the name of a lock must not begin with -`},
		{"run", " \n", "input run is empty; give the script that is to run while the lock is held"},
		{"endpoint", "", "input endpoint is empty, and HOLDFAST_ENDPOINT is not set; give the coordinator's URL, the output Endpoint of its stack, as one of them"},
		{"shell", "fish", `input shell is "fish"; it must be one of: bash sh python`},
		{"mode", "shared", `input mode is "shared"; it must be one of: read write`},
		{"attestation", "yes", `input attestation is "yes"; it must be one of: auto required off`},
		{"version", "latest", `input version is "latest"; it must be the tag of a release, such as v0.1.0`},
		{"version", "v1.0.0/../x", `input version is "v1.0.0/../x"`},
		{"working-directory", "nowhere", `input working-directory is "nowhere", which is no directory; is there a step before that checks out the repository?`},
		{"binary", "nowhere/holdfast", `input binary is "nowhere/holdfast", which cannot be executed; give the path of a holdfast command, or leave it empty`},
		{"mode", "100%\nof it", `input mode is "100%25%0Aof it"`},
	} {
		code, out := runner.run(with(r, "http://127.0.0.1:1", map[string]string{c.input: c.value}))
		if code != 125 || !strings.Contains(out, "::error title=holdfast::"+c.says) {
			t.Errorf("%s %q: exit code %d\n%s\nwant 125 and %s", c.input, c.value, code, out, c.says)
		}
	}
	runner.env["RUNNER_OS"] = "Windows"
	if code, out := runner.run(with(r, "http://127.0.0.1:1", nil)); code != 125 || !strings.Contains(out, "this action runs on Linux and macOS runners") {
		t.Errorf("on Windows: exit code %d\n%s", code, out)
	}
	if got := r.downloads(); len(got) > 0 {
		t.Errorf("downloaded %v", got)
	}
}

// What the command itself refuses comes with its text: a TTL without a unit, metadata that is no object.
func TestActionShowsTheErrorsOfTheCommand(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, _ := newCoordinator(t)
	for _, c := range []struct{ input, value, says string }{
		{"ttl", "5", `--ttl: "5" is not a duration`},
		{"metadata", "[]", "--metadata"},
		{"lock", "a b", `name has the character ' '`},
		{"endpoint", "https://locks.example.com", "give --region, or set AWS_REGION"},
	} {
		code, out := runner.run(with(r, endpoint, map[string]string{c.input: c.value}))
		if code != 125 || !strings.Contains(out, c.says) {
			t.Errorf("%s %q: exit code %d\n%s\nwant 125 and %s", c.input, c.value, code, out, c.says)
		}
	}
}

// The runner signals only the step's own process when a job is cancelled. The script, with all that it started, ends, and the lock is free.
func TestActionThatIsCancelled(t *testing.T) {
	t.Parallel()
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	step := runner.step(with(r, endpoint, map[string]string{"run": "trap 'touch interrupted; exit 1' INT\nsleep 600 &\necho $! >child\nwait"}))
	step.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that only the signal below reaches it
	if err := step.Start(); err != nil {
		t.Fatal(err)
	}
	child := filepath.Join(runner.workspace(), "child")
	until(t, "the script to start", func() bool { data, err := os.ReadFile(child); return err == nil && len(data) > 1 })
	if err := step.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := step.Wait(); err == nil {
		t.Error("a step that was cancelled succeeded")
	}
	_ = runner.read("interrupted")
	if exec.CommandContext(t.Context(), "kill", "-0", strings.TrimSpace(runner.read("child"))).Run() == nil {
		t.Error("a process of the script is still there")
	}
	mustBeFree(t, client, "deploy:prod")
}

// A release that is not what its checksums say is not installed, and what was not installed is not in the cache either.
func TestActionVerifiesChecksums(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(r *release)
		says   string
	}{
		"another archive":  {func(r *release) { r.files[r.archive] = append(r.files[r.archive], 'x') }, "but checksums.txt says"},
		"no checksum":      {func(r *release) { r.files["checksums.txt"] = []byte("0000  " + r.archive + "\n") }, "does not have " + "holdfast_"},
		"no checksums":     {func(r *release) { delete(r.files, "checksums.txt") }, "checksums.txt cannot be downloaded; is "},
		"another checksum": {func(r *release) { r.files["checksums.txt"] = []byte(strings.Repeat("0", 64) + "  " + r.archive + "\n") }, "but checksums.txt says 0000"},
		"no archive":       {func(r *release) { delete(r.files, r.archive) }, "cannot be downloaded; is "},
	} {
		r, runner := newRelease(t), newFakeRunner(t)
		c.change(r)
		for range 2 {
			code, out := runner.run(with(r, "http://127.0.0.1:1", map[string]string{"run": "touch ran", "wait": "0"}))
			if code != 125 || !strings.Contains(out, c.says) {
				t.Errorf("%s: exit code %d\n%s\nwant 125 and %q", name, code, out, c.says)
			}
		}
		left, err := filepath.Glob(filepath.Join(runner.dir, "tools", "holdfast", "*", "*", "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// gh verifies the attestation of the project's own workflow, if it is there or if that is required. The programs named gh are fakes.
func TestActionVerifiesAttestations(t *testing.T) {
	t.Parallel()
	good := `gh=[ "$1 $2" = "auth token" ] || { echo "$@" >"$HOME/gh-arguments"; echo "$GH_TOKEN" >"$HOME/gh-token"; }`
	for _, c := range []struct {
		name, gh, attestation string
		code                  int
		says                  string
	}{
		{"valid", good, "auto", 0, "after verifying its checksum and attestation"},
		{"valid and required", good, "required", 0, "after verifying its checksum and attestation"},
		{"not valid", `gh=[ "$1 $2" = "auth token" ] || { echo no attestations found >&2; exit 1; }`, "auto", 125, "no attestations found"},
		{"not valid, and off", "gh=exit 1", "off", 0, "after verifying its checksum\n"},
		{"no gh", "", "auto", 0, "after verifying its checksum\n"},
		{"no gh, but required", "", "required", 125, "attestation is required, and gh, which verifies it, is not installed"},
		{"gh without a token", "gh=exit 1", "auto", 0, "after verifying its checksum\n"},
		{"gh without a token, but required", "gh=exit 1", "required", 125, "or has no token (GH_TOKEN)"},
	} {
		r, runner := newRelease(t), newFakeRunner(t)
		endpoint, _ := newCoordinator(t)
		programs := []string{"curl", "sha256sum"}
		if c.gh != "" {
			programs = append(programs, c.gh)
		}
		runner.env["PATH"] = tools(t, programs...)
		code, out := runner.run(with(r, endpoint, map[string]string{"attestation": c.attestation}))
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d\n%s\nwant %d and %q", c.name, code, out, c.code, c.says)
		}
		if c.gh != good {
			continue
		}
		arguments, err := os.ReadFile(filepath.Join(runner.dir, "gh-arguments"))
		if err != nil || !regexp.MustCompile(`^attestation verify \S+/`+regexp.QuoteMeta(r.archive)+` --repo holdfast-lock/holdfast --signer-workflow holdfast-lock/holdfast/\.github/workflows/release\.yml\n$`).Match(arguments) {
			t.Errorf("%s: gh was called with %s, %v", c.name, arguments, err)
		}
		if token, err := os.ReadFile(filepath.Join(runner.dir, "gh-token")); err != nil || string(token) != "ghs_token_of_the_job\n" {
			t.Errorf("%s: gh had the token %q, %v", c.name, token, err)
		}
	}
	if _, err := os.Stat("../.github/workflows/release.yml"); err != nil {
		t.Error(err)
	}
}

// Every machine's programs do: curl or wget, sha256sum or shasum. Without either the error names them.
func TestActionInstallsWithWhatIsThere(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := exec.LookPath("sha256sum")
	if err != nil {
		t.Fatal(err)
	}
	wget := `wget=[ "$1 $2" = "-q -O" ] && exec ` + curl + ` -sf -o "$3" "$4"`
	shasum := `shasum=[ "$1 $2" = "-a 256" ] && exec ` + sum + ` "$3"`
	for _, c := range []struct {
		programs []string
		code     int
		says     string
	}{
		{[]string{wget, shasum}, 0, "installed"},
		{[]string{"sha256sum"}, 125, "curl or wget is needed to download http"},
		{[]string{"curl"}, 125, "sha256sum or shasum is needed to verify the download"},
		{[]string{"curl", "sha256sum", "uname=echo Plan9"}, 125, "releases have no archive for Plan9"},
		{[]string{"curl", "sha256sum", `uname=case $1 in -s) echo Linux;; -m) echo riscv64;; esac`}, 125, "go install github.com/holdfast-lock/holdfast/cmd/holdfast@v"},
	} {
		r, runner := newRelease(t), newFakeRunner(t)
		endpoint, _ := newCoordinator(t)
		runner.env["PATH"] = tools(t, c.programs...)
		code, out := runner.run(with(r, endpoint, nil))
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%.60q: exit code %d\n%s\nwant %d and %q", c.programs, code, out, c.code, c.says)
		}
	}
}

// The action and GitLab's template install the release that they are part of.
func TestVersionsAreOne(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("VERSION")
	if err != nil {
		t.Fatal(err)
	}
	if v := strings.TrimSpace(string(data)); !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(v) || v != template(t).Variables["HOLDFAST_VERSION"] {
		t.Errorf("VERSION is %q, and the template has %q", v, template(t).Variables["HOLDFAST_VERSION"])
	}
}
