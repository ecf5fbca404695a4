package wirefault

import (
	"context"
	"time"
)

// ConfigWith replaces how the proxy waits.
func ConfigWith(cfg Config, wait func(ctx context.Context, d time.Duration)) Config {
	cfg.wait = wait
	return cfg
}
