//go:build !stress

package main

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	refuseToGuard()
	os.Exit(m.Run())
}
