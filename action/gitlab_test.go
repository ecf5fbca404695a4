package action_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	templateFile = "gitlab/holdfast.gitlab-ci.yml"
	jobURL       = "https://gitlab.example/shop/-/jobs/7"
)

// A gitlabJob is what the fake runner of GitLab reads of a job.
type gitlabJob struct {
	Extends      string
	Variables    map[string]string
	BeforeScript []string `yaml:"before_script"`
	Script       []string
}

func template(t *testing.T) gitlabJob {
	t.Helper()
	var file map[string]gitlabJob
	decode(t, templateFile, &file)
	job, ok := file[".holdfast"]
	if !ok || len(file) != 1 {
		t.Fatalf("the template has the jobs %v; want .holdfast alone", file)
	}
	return job
}

// gitlabStep makes the command by which a fake runner of GitLab runs a job of the template: the lines of before_script and script, in one shell.
func gitlabStep(t *testing.T, shell []string, variables map[string]string, script ...string) *exec.Cmd {
	t.Helper()
	job := template(t)
	text := "set -e\n" + strings.Join(job.BeforeScript, "\n") + "\n" + strings.Join(script, "\n") + "\n"
	file := filepath.Join(t.TempDir(), "job.sh")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), shell[0], append(shell[1:], file)...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "TMPDIR=" + cmd.Dir, "CI_JOB_URL=" + jobURL}
	for name, value := range job.Variables {
		if _, given := variables[name]; !given {
			cmd.Env = append(cmd.Env, name+"="+strings.ReplaceAll(value, "$CI_JOB_URL", jobURL))
		}
	}
	for name, value := range variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// A job that extends the template runs its command under the lock, in bash and in a POSIX shell; its exit code is the command's.
func TestTemplateRunsUnderTheLock(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	endpoint, client := newCoordinator(t)
	for _, shell := range [][]string{{"bash", "-eo", "pipefail"}, {"sh", "-e"}} {
		variables := map[string]string{"HOLDFAST_VERSION": r.version, "HOLDFAST_RELEASES": r.url, "HOLDFAST_ATTESTATION": "off", "HOLDFAST_ENDPOINT": endpoint}
		job := gitlabStep(t, shell, variables, `exec holdfast exec deploy:prod --wait 30m -- sh -c 'curl -sS "$HOLDFAST_ENDPOINT/v1/locks/$HOLDFAST_LOCK" >status.json; exit 9'`)
		if code, out := runs(t, job); code != 9 {
			t.Errorf("%s: exit code %d, want 9\n%s", shell[0], code, out)
		}
		status, err := os.ReadFile(filepath.Join(job.Dir, "status.json"))
		if err != nil || !strings.Contains(string(status), `"owner":"`+jobURL+`"`) {
			t.Errorf("%s: the lock was %s, %v", shell[0], status, err)
		}
		mustBeFree(t, client, "deploy:prod")

		// The script does not begin if the command cannot be installed.
		variables["HOLDFAST_VERSION"] = "v9.9.9"
		job = gitlabStep(t, shell, variables, "touch began")
		code, out := runs(t, job)
		if code != 125 || !strings.Contains(out, "checksums.txt cannot be downloaded; is v9.9.9 a published release") {
			t.Errorf("%s: exit code %d\n%s", shell[0], code, out)
		}
		if _, err := os.Stat(filepath.Join(job.Dir, "began")); err == nil {
			t.Errorf("%s: the script began", shell[0])
		}
	}
}

// The template has the lines of install.sh, since a job of GitLab has no file of this repository.
func TestTemplateHasTheInstaller(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("install.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, installer, _ := strings.Cut(string(data), "\n")
	if got := strings.Join(template(t).BeforeScript, "\n"); !strings.Contains(indent.ReplaceAllString(got, ""), indent.ReplaceAllString(installer, "")) {
		t.Errorf("%s does not have the lines of install.sh after the first; copy them", templateFile)
	}
}

var indent = regexp.MustCompile(`(?m)^ +`)
