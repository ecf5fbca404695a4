package action_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// blocks are the YAML snippets of the document that contain a text.
func blocks(t *testing.T, containing string) (list []string) {
	t.Helper()
	data, err := os.ReadFile("../docs/pipelines.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range yamlBlock.FindAllStringSubmatch(string(data), -1) {
		var anything any
		if err := yaml.Unmarshal([]byte(m[1]), &anything); err != nil {
			t.Errorf("docs/pipelines.md has YAML that cannot be read: %v\n%s", err, m[1])
		}
		if strings.Contains(m[1], containing) {
			list = append(list, m[1])
		}
	}
	return list
}

// The workflow of the document gives inputs that the action has, and runs its script under the lock.
func TestDocumentedWorkflow(t *testing.T) {
	t.Parallel()
	list := blocks(t, "holdfast-lock/holdfast/action@")
	if len(list) != 1 {
		t.Fatalf("the document has %d workflows", len(list))
	}
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct {
				Uses string
				With map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(list[0]), &workflow); err != nil {
		t.Fatal(err)
	}
	steps := workflow.Jobs["deploy"].Steps
	step := steps[len(steps)-1]
	if !regexp.MustCompile(`^holdfast-lock/holdfast/action@v\d+\.\d+\.\d+$`).MatchString(step.Uses) {
		t.Errorf("the step uses %s", step.Uses)
	}
	r, runner := newRelease(t), newFakeRunner(t)
	endpoint, client := newCoordinator(t)
	script(t, runner.workspace())
	if code, out := runner.run(with(r, endpoint, step.With)); code != 9 {
		t.Errorf("exit code %d, want that of deploy.sh\n%s", code, out)
	}
	if got := runner.read("lock"); got != "deploy:prod\n" {
		t.Errorf("deploy.sh ran under the lock %q", got)
	}
	mustBeFree(t, client, "deploy:prod")
}

// script makes a deploy.sh.
func script(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "deploy.sh"), []byte("#!/bin/sh\necho \"$HOLDFAST_LOCK\" >lock\nexit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// The job of the document for GitLab runs its script under the lock; that with an identity token of GitLab gives it to the command.
func TestDocumentedGitLabJobs(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	endpoint, client := newCoordinator(t)
	list := blocks(t, "extends: .holdfast")
	if len(list) != 1 {
		t.Fatalf("the document has %d jobs that extend the template", len(list))
	}
	var file struct{ Deploy gitlabJob }
	if err := yaml.Unmarshal([]byte(list[0]), &file); err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{"HOLDFAST_VERSION": r.version, "HOLDFAST_RELEASES": r.url, "HOLDFAST_ATTESTATION": "off", "HOLDFAST_ENDPOINT": endpoint, "CI_COMMIT_SHA": "c0ffee"}
	job := gitlabStep(t, []string{"sh", "-e"}, variables, file.Deploy.Script...)
	script(t, job.Dir)
	if code, out := runs(t, job); code != 9 {
		t.Errorf("exit code %d, want that of deploy.sh\n%s", code, out)
	}
	mustBeFree(t, client, "deploy:prod")

	list = blocks(t, "id_tokens")
	if len(list) != 1 {
		t.Fatalf("the document has %d jobs with tokens", len(list))
	}
	var lines []string
	for line := range strings.Lines(list[0]) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "- export "); ok {
			lines = append(lines, "export "+text)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("the document's job has the lines %q", lines)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", lines[0]+`; cat "$AWS_WEB_IDENTITY_TOKEN_FILE"`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "AWS_TOKEN=the token"}
	if code, out := runs(t, cmd); code != 0 || out != "the token" {
		t.Errorf("exit code %d, %q", code, out)
	}
}
