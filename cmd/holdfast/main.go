// Command holdfast runs, uses and operates a Holdfast lock coordinator.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"golang.org/x/term"

	"github.com/holdfast-lock/holdfast/internal/duration"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Exit codes, the same for every command. With `exec` the codes below are those of the command that it ran.
const (
	exitHeld    = 123 // others hold the lock, and the time to wait is over
	exitLost    = 124 // the lease was lost, or was over
	exitSignal  = 130 // interrupted before there was an outcome
	exitFailed  = 125 // anything else: bad usage, no answer, not allowed
	exitCannot  = 126 // exec: the command cannot be run
	exitMissing = 127 // exec: there is no such command
)

type cli struct {
	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`
	JSON        bool             `name:"json" env:"HOLDFAST_JSON" help:"Write JSON: an object a line."`
	connection

	Exec         execCmd         `cmd:"" help:"Run a command while holding a lock."`
	Acquire      acquireCmd      `cmd:"" help:"Take a lock, and print its lease for renew and release."`
	Renew        renewCmd        `cmd:"" help:"Extend a lease."`
	Release      releaseCmd      `cmd:"" help:"Give a lease back."`
	Status       statusCmd       `cmd:"" help:"Show a lock."`
	Ls           lsCmd           `cmd:"" help:"List locks."`
	Watch        watchCmd        `cmd:"" help:"Show a lock each time it changes."`
	ForceRelease forceReleaseCmd `cmd:"" help:"End the leases of others on a lock."`
	Repair       repairCmd       `cmd:"" help:"Put right a lock whose fencing token is ahead of time."`
	Doctor       doctorCmd       `cmd:"" help:"Check the coordinator, credentials, clocks and table, and say what to do."`
	Dev          devCmd          `cmd:"" help:"Run the whole coordinator in one process, on this machine."`
	Init         initCmd         `cmd:"" help:"Make the lock table, or check the one that is there."`
	Name         nameCmd         `cmd:"" help:"Make a lock's name of any text, such as a path or a branch."`
	Version      versionCmd      `cmd:"" help:"Print the version."`

	Completion kongcompletion.Completion `cmd:"" help:"Print how to turn on completion in a shell."`
	Guard      guardCmd                  `cmd:"" hidden:"" help:"Run a command for exec, which starts this."`
}

const description = `A serverless lock coordinator for AWS.

Exit codes: 123 the lock is held by others, 124 the lease is lost, 125 anything else that failed, 130 interrupted; exec: the
command's own otherwise, 126 and 127 if it cannot be run or found.`

// streams are where a command reads and writes.
type streams struct {
	in       *os.File
	out, err io.Writer
	outTTY   bool // out is a terminal
	errTTY   bool
	width    func() int // of the terminal at err; nil: 80
	json     bool

	mu    sync.Mutex
	line  string // the live line, uncut
	drawn int    // how many columns of it are on the terminal
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless a command has a use for it
	s := &streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb",
		width:  stderrWidth,
	}
	os.Exit(run(ctx, os.Args[1:], s))
}

// endings are the signals that end a command, except for those that are ignored, as nohup has it.
func endings() (list []os.Signal) {
	for _, n := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(n) {
			list = append(list, n)
		}
	}
	return list
}

func stderrWidth() int {
	n, _, _ := term.GetSize(int(os.Stderr.Fd()))
	return n
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s *streams) error {
	return s.result(map[string]any{"version": version()}, version())
}

// version is the module's, as go install recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// run is main without the process: it answers the exit code.
func run(ctx context.Context, args []string, s *streams) int {
	var c cli
	exited := -1
	parser := newParser(&c, s, kong.Exit(func(code int) { exited = max(exited, code) }), // help, and completion
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(s, &c.connection, slog.New(slog.NewTextHandler(s.err, nil))))
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		s.notice("failed", fmt.Sprintf("%v; %s --help tells more", err, usageOf(err)), "exit_code", exitFailed)
		return exitFailed
	}
	s.json = c.JSON
	c.flagsGiven(k)
	if err = c.check(); err == nil {
		err = k.Run()
	}
	if exited >= 0 {
		return exited
	}
	return s.report(err)
}

// usageOf is the command whose help tells more about a command line that cannot be read.
func usageOf(err error) string {
	if bad, ok := errors.AsType[*kong.ParseError](err); ok && bad.Context.Selected() != nil {
		return "holdfast " + bad.Context.Selected().Name
	}
	return "holdfast"
}

func newParser(c *cli, s *streams, options ...kong.Option) *kong.Kong {
	parser := kong.Must(c, append(options,
		kong.Name("holdfast"), kong.Description(description), kong.Vars{"version": version()}, kong.Writers(s.out, s.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(duration.Decode)),
		kong.KindMapper(reflect.String, textMapper(func(text string) string { return text })), kong.NamedMapper("path", textMapper(kong.ExpandPath)),
	)...)
	ignoreEmptyVariables(parser.Model)
	kongcompletion.Register(parser)
	return parser
}

// textMapper sets a text byte for byte. Kong's own mapper passes texts through JSON, which replaces bytes that are not UTF-8: a
// command would get other arguments than those that were given.
func textMapper(expand func(string) string) kong.MapperFunc {
	return func(ctx *kong.DecodeContext, target reflect.Value) error {
		token, err := ctx.Scan.PopValue("string")
		if err != nil {
			return err
		}
		target.SetString(expand(fmt.Sprint(token.Value)))
		return nil
	}
}

// ignoreEmptyVariables treats an environment variable that is empty as one that is not set, as AWS's tools do.
func ignoreEmptyVariables(model *kong.Application) {
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			flag.Tag.Envs = slices.DeleteFunc(slices.Clone(flag.Tag.Envs), func(name string) bool {
				value, set := os.LookupEnv(name)
				return set && value == ""
			})
		}
		return next(nil)
	})
}

// An exit is an exit code with nothing more to say.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// report says what went wrong, and answers the exit code.
func (s *streams) report(err error) int {
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exit](err); ok {
		return int(code)
	}
	code := exitFailed
	switch {
	case errors.Is(err, context.Canceled):
		code, err = exitSignal, errors.New("interrupted")
	case errors.Is(err, lockclient.ErrHeld):
		code = exitHeld
	case errors.Is(err, lockclient.ErrLost):
		code = exitLost
	}
	s.notice("failed", message(err), "exit_code", code)
	return code
}
