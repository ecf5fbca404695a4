// Command run is `holdfast dev` with locks in memory, for make run. It links no client of the AWS SDK, which halves its
// compile time.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/holdfast-lock/holdfast/internal/duration"
	"github.com/holdfast-lock/holdfast/internal/local"
)

func main() {
	var options local.Options
	kong.Parse(&options, kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(duration.Decode)), kong.Name("make run"),
		kong.Description("Runs the whole coordinator in one process, in memory. holdfast dev keeps locks in DynamoDB too."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := options.Run(ctx, local.Memory(), os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast dev:", err)
		os.Exit(1) //nolint:gocritic // stop only restores signals
	}
}
