package infra_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/infra"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The stream's filters in both templates drop the writes that package lock calls quiet, and no other.
func TestFiltersDropQuietWrites(t *testing.T) {
	sam, err := os.ReadFile("../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(infra.StreamFilters) != 3 || len(lock.QuietCauses()) == 0 {
		t.Fatalf("%d filters, %d quiet causes", len(infra.StreamFilters), len(lock.QuietCauses()))
	}
	quiet, err := json.Marshal(lock.QuietCauses())
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range []string{string(sam), mustJSON(t, infra.StreamFilters)} {
		if want := `"NewImage":{"cause":{"S":[{"anything-but":` + string(quiet) + `}]}}`; strings.Count(template, want) != 1 {
			t.Errorf("no filter has %s", want)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
