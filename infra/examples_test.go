package infra_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// In the examples, a lease's secret is random, and made in a state of its own, so that a state that is retried asks
// with the same one.
func TestExamplesChooseRandomLeases(t *testing.T) {
	files, err := filepath.Glob("../examples/stepfunctions/*.asl.json")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "arn:aws:") {
			t.Errorf("%s names the partition aws", file)
		}
		var definition any
		if err := json.Unmarshal(data, &definition); err != nil {
			t.Fatal(err)
		}
		made, used := map[string]bool{}, map[string]bool{}
		leases(definition, made, used)
		for lease := range used {
			if !made[lease] {
				t.Errorf("%s: no state makes the lease %s at random", file, lease)
			}
		}
		if len(used) == 0 {
			t.Errorf("%s acquires nothing", file)
		}
	}
}

// leases collects how leases are named that Pass states make at random, and that payloads use.
func leases(v any, made, used map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			leases(e, made, used)
		}
	case map[string]any:
		if v["Type"] == "Pass" {
			parameters, _ := v["Parameters"].(map[string]any)
			if path, _ := v["ResultPath"].(string); parameters["lease.$"] == "States.UUID()" {
				made[path+".lease"] = true
			}
			if assign, _ := v["Assign"].(map[string]any); assign["lease"] == "{% $uuid() %}" {
				made["{% $lease %}"] = true
			}
		}
		if payload, ok := v["Payload"].(map[string]any); ok {
			for _, field := range []string{"lease", "lease.$"} {
				if lease, ok := payload[field].(string); ok {
					used[lease] = true
				}
			}
		}
		for _, e := range v {
			leases(e, made, used)
		}
	}
}
