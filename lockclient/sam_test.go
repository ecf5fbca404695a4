//go:build samlocal

package lockclient_test

import (
	"errors"
	"os"
	"testing"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// TestSAMLocal runs a cycle against `sam local start-api`, which scripts/sam-local.sh starts.
func TestSAMLocal(t *testing.T) {
	client, err := lockclient.New(lockclient.Config{Endpoint: os.Getenv("HOLDFAST_ENDPOINT"), RequestTimeout: 60e9})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.TryAcquire(t.Context(), "sam:client", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.TryAcquire(t.Context(), "sam:client", lockclient.Options{}); !errors.Is(err, lockclient.ErrHeld) {
		t.Errorf("contention: %v", err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	if s, err := client.Status(t.Context(), "sam:client"); err != nil || !s.Locked {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := client.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
