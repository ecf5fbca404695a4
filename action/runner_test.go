package action_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// version is the tag of the release that the tests make.
const version = "v0.0.1-test"

// command builds the command once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "../cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// decode reads a YAML file of the repository.
func decode(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// A release is a server of the files of one release, as GitHub serves them. HOLDFAST_RELEASE=DIRECTORY takes those that GoReleaser made;
// otherwise the archive of this machine is made as .goreleaser.yaml says.
type release struct {
	version string
	archive string            // the name of this machine's archive
	files   map[string][]byte // by name
	url     string            // of the releases, as HOLDFAST_RELEASES takes it
	mu      sync.Mutex
	asked   []string // the files that were downloaded
}

func newRelease(t *testing.T) *release {
	t.Helper()
	r := &release{version: version, files: map[string][]byte{}}
	if dir := os.Getenv("HOLDFAST_RELEASE"); dir != "" {
		var metadata struct{ Version string }
		decode(t, filepath.Join(dir, "metadata.json"), &metadata) // JSON is YAML
		r.version = "v" + metadata.Version
		r.archive = archiveName(t, metadata.Version)
		for _, name := range []string{r.archive, "checksums.txt"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			r.files[name] = data
		}
	} else {
		r.archive = archiveName(t, strings.TrimPrefix(version, "v"))
		data, err := archive()
		if err != nil {
			t.Fatal(err)
		}
		r.files[r.archive] = slices.Clone(data) // tests change it
		r.files["checksums.txt"] = fmt.Appendf(nil, "%064d  other.zip\n%x  %s\n", 0, sha256.Sum256(r.files[r.archive]), r.archive)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, ok := strings.CutPrefix(req.URL.Path, "/"+r.version+"/")
		data, found := r.files[name]
		if !ok || !found {
			http.NotFound(w, req)
			return
		}
		r.mu.Lock()
		r.asked = append(r.asked, name)
		r.mu.Unlock()
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *release) downloads() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// archiveName is the name of this machine's archive by .goreleaser.yaml.
func archiveName(t *testing.T, version string) string {
	t.Helper()
	var config struct {
		Archives []struct {
			ID       string
			Template string `yaml:"name_template"`
			Formats  []string
		}
	}
	decode(t, "../.goreleaser.yaml", &config)
	for _, a := range config.Archives {
		if a.ID == "holdfast" {
			return strings.NewReplacer("{{ .Version }}", version, "{{ .Os }}", runtime.GOOS, "{{ .Arch }}", runtime.GOARCH).Replace(a.Template) + "." + a.Formats[0]
		}
	}
	t.Fatal(".goreleaser.yaml has no archive holdfast")
	return ""
}

// archive is a tar.gz of the command and its licence. It is made once: the command is large, and the race detector makes its compression slow.
var archive = sync.OnceValues(func() ([]byte, error) {
	path, err := command()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, f := range []struct {
		name, path string
		mode       int64
	}{{"LICENSE", "../LICENSE", 0o644}, {"holdfast", path, 0o755}} {
		data, err := os.ReadFile(f.path)
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(data))})
		}
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			return nil, err
		}
	}
	err = errors.Join(w.Close(), z.Close())
	return b.Bytes(), err
})

// newCoordinator starts a coordinator in memory, and returns its URL and a client of it.
func newCoordinator(t *testing.T) (string, *lockclient.Client) {
	t.Helper()
	coordinator, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(local.NewGateway(a, slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	client, err := lockclient.New(lockclient.Config{Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.Background()) })
	return server.URL, client
}

// An actionFile is what the fake runner reads of action.yml.
type actionFile struct {
	Inputs map[string]struct {
		Description string
		Required    bool
		Default     string
	}
	Runs struct {
		Using string
		Steps []struct {
			Name, Shell, Run, Uses string
			Env                    map[string]string
		}
	}
}

// A fakeRunner runs the steps of a composite action as GitHub's runner does: it replaces the expressions of their environment, and runs each
// with bash. It knows no more of GitHub than this action needs, and fails on the rest.
type fakeRunner struct {
	t      *testing.T
	action actionFile
	dir    string            // of the runner: temp, tools and workspace are below
	env    map[string]string // of the job
}

func newFakeRunner(t *testing.T) *fakeRunner {
	t.Helper()
	r := &fakeRunner{t: t, dir: t.TempDir()}
	decode(t, "action.yml", &r.action)
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"temp", "tools", "workspace"} {
		if err := os.Mkdir(filepath.Join(r.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.env = map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": r.dir,
		"GITHUB_ACTION_PATH": here, "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "example/shop", "GITHUB_RUN_ID": "42",
		"GITHUB_SHA": strings.Repeat("c0ffee1234", 4), "GITHUB_ACTOR": "dependabot[bot]", "GITHUB_WORKSPACE": r.workspace(),
		"RUNNER_OS": "Linux", "RUNNER_ARCH": "X64", "RUNNER_TEMP": filepath.Join(r.dir, "temp"), "RUNNER_TOOL_CACHE": filepath.Join(r.dir, "tools"),
	}
	return r
}

func (r *fakeRunner) workspace() string { return filepath.Join(r.dir, "workspace") }

// read returns a file of the workspace.
func (r *fakeRunner) read(name string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.workspace(), name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

var expression = regexp.MustCompile(`\$\{\{ *([a-z.-]+) *\}\}`)

// value replaces the expressions in a text.
func (r *fakeRunner) value(text string, inputs map[string]string) string {
	return expression.ReplaceAllStringFunc(text, func(e string) string {
		name := expression.FindStringSubmatch(e)[1]
		if input, ok := strings.CutPrefix(name, "inputs."); ok {
			value, ok := inputs[input]
			if !ok {
				r.t.Fatalf("action.yml uses the input %s, which it does not have", input)
			}
			return value
		}
		if name != "github.token" {
			r.t.Fatalf("action.yml uses %s, which the fake runner does not know", name)
		}
		return "ghs_token_of_the_job"
	})
}

// step makes the command of the action's one step, with the inputs that a workflow gives.
func (r *fakeRunner) step(with map[string]string) *exec.Cmd {
	r.t.Helper()
	inputs := map[string]string{}
	for name, input := range r.action.Inputs {
		inputs[name] = r.value(input.Default, nil)
	}
	for name, value := range with {
		if _, ok := r.action.Inputs[name]; !ok {
			r.t.Fatalf("action.yml has no input %s", name)
		}
		inputs[name] = value
	}
	if r.action.Runs.Using != "composite" || len(r.action.Runs.Steps) != 1 {
		r.t.Fatalf("action.yml is no composite action of one step: %+v", r.action.Runs)
	}
	s := r.action.Runs.Steps[0]
	if s.Shell != "bash" {
		r.t.Fatalf("the step's shell is %q", s.Shell)
	}
	file := filepath.Join(r.dir, "temp", "step.sh")
	if err := os.WriteFile(file, []byte(r.value(s.Run, inputs)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", file)
	cmd.Dir = r.workspace()
	for name, value := range r.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+r.value(value, inputs))
	}
	return cmd
}

// run runs the step, and returns its exit code and what it printed.
func (r *fakeRunner) run(with map[string]string) (code int, output string) {
	r.t.Helper()
	return runs(r.t, r.step(with))
}

func runs(t *testing.T, cmd *exec.Cmd) (code int, output string) {
	t.Helper()
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), b.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, b.String()
}

// tools makes a PATH of these programs alone, so that a test does not depend on what else the machine has. A name with = is a script of its
// own: name=text.
func tools(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range slices.Concat(strings.Fields("bash sh tar gzip uname mktemp mkdir mv rm sed cat dirname basename"), programs) {
		if name, text, script := strings.Cut(p, "="); script {
			_ = os.Remove(filepath.Join(dir, name)) // the machine's own
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		path, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
