// Command holdfast runs and operates a Holdfast lock coordinator.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type cli struct {
	Dev  devCmd  `cmd:"" help:"Run the whole coordinator in one process, on this machine."`
	Init initCmd `cmd:"" help:"Make the lock table, or check the one that is there."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli{},
		kong.Name("holdfast"),
		kong.Description("A serverless lock coordinator for AWS."),
		kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(slog.New(slog.NewTextHandler(os.Stderr, nil))),
	)
	k.FatalIfErrorf(k.Run())
}
