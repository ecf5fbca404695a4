// Command holdfast runs, uses and operates a Holdfast lock coordinator.
//
// Each command is a struct in a file of its own, or beside its relatives, with a Run method; the struct [cli] lists
// them all. The command line is parsed by kong (github.com/alecthomas/kong) from the structs' tags. To add a flag:
//
//  1. Declare it as a field of the command's struct (execCmd in exec.go, for example), of taking in lease.go for exec and acquire,
//     or of [connection] in connect.go for every command. The tags name its placeholder, default, environment variable and help
//     text; kong derives --at-least from a field AtLeast. A [time.Duration] also accepts days (internal/duration).
//  2. Validate it in the struct's check or options method, or at the beginning of Run. An error names the flag and its value, and
//     says what to give instead.
//  3. Document it: the help text is the reference. docs_test.go checks the command lines in docs/. A setting of every command
//     belongs into docs/shell.md, too.
//  4. Test it: settings_test.go has the settings of every command and the refused values (TestBadValues), exec_test.go and
//     commands_test.go what commands do.
//
// To add a command, add its struct and Run, list it in [cli], and add a line to the command lines of settings_test.go.
// Arguments of Run are bound by type in [run]: context.Context, *streams, *connection, *slog.Logger.
//
// Results go to standard output and notices to standard error, as text or with --json as objects: see [streams].
// Package internal/supervise runs the command of exec; package internal/local is the coordinator of dev.
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

// Exit codes of all commands. exec otherwise exits with the code of the command that it ran.
const (
	exitHeld    = 123 // others hold the lock, and the time to wait has passed
	exitLost    = 124 // the lease was lost or had expired
	exitFailed  = 125 // any other failure: usage, no answer, permission
	exitCannot  = 126 // exec: the command cannot be run
	exitMissing = 127 // exec: the command does not exist
	exitSignal  = 130 // interrupted before the outcome was known
)

type cli struct {
	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`
	JSON        bool             `name:"json" env:"HOLDFAST_JSON" help:"Write JSON: an object a line."`
	connection

	Exec         execCmd         `cmd:"" help:"Run a command while holding a lock."`
	Acquire      acquireCmd      `cmd:"" help:"Take a lock, and print its lease for renew and release."`
	Renew        renewCmd        `cmd:"" help:"Extend a lease."`
	Release      releaseCmd      `cmd:"" help:"Release a lease."`
	Status       statusCmd       `cmd:"" help:"Show a lock."`
	Ls           lsCmd           `cmd:"" help:"List locks."`
	Watch        watchCmd        `cmd:"" help:"Show a lock, or all below a prefix, each time they change."`
	Events       eventsCmd       `cmd:"" help:"Show grants and ends of leases as they happen."`
	UI           uiCmd           `cmd:"" name:"ui" help:"Show the locks in a browser on this machine, live."`
	ForceRelease forceReleaseCmd `cmd:"" help:"End the leases of others on a lock."`
	Freeze       freezeCmd       `cmd:"" help:"Freeze all locks whose names begin with a prefix: nobody is granted them until a time."`
	Unfreeze     unfreezeCmd     `cmd:"" help:"End a freeze."`
	KeepHistory  keepHistoryCmd  `cmd:"" help:"Keep the history of all locks whose names begin with a prefix."`
	History      historyCmd      `cmd:"" help:"Show who held a lock, and how long each holder waited."`
	Limit        limitCmd        `cmd:"" help:"Limit all locks whose names begin with a prefix: capacity, TTL, time held, waiters, permits of a principal."`
	Unlimit      unlimitCmd      `cmd:"" help:"Remove limits."`
	Rules        rulesCmd        `cmd:"" help:"Show the rules for locks by prefix."`
	Repair       repairCmd       `cmd:"" help:"Repair a lock whose fencing token is ahead of the clock."`
	Redrive      redriveCmd      `cmd:"" help:"Handle dead letters again, and mend what nobody will free or tell."`
	Sweep        sweepCmd        `cmd:"" help:"Delete the notify queues that killed processes have left."`
	Doctor       doctorCmd       `cmd:"" help:"Check the coordinator, credentials, clocks and table, and say how to fix what is wrong."`
	Dev          devCmd          `cmd:"" help:"Run the whole coordinator in one process, on this machine."`
	Init         initCmd         `cmd:"" help:"Create the lock table, or check the existing one."`
	Name         nameCmd         `cmd:"" help:"Turn any text, such as a path or a branch, into a lock's name."`
	Version      versionCmd      `cmd:"" help:"Print the version."`

	Completion kongcompletion.Completion `cmd:"" help:"Print how to turn on completion in a shell."`
	Guard      guardCmd                  `cmd:"" hidden:"" help:"Run a command; started by exec."`
}

const description = `A serverless lock coordinator for AWS.

Exit codes: 123 the lock is held by others, 124 the lease is lost, 125 anything else that failed, 130 interrupted; exec: the
command's own otherwise, 126 and 127 if it cannot be run or found.`

// streams are the standard streams of a command, and how it writes to them.
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
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless the command handles it
	s := &streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb",
		width:  stderrWidth,
	}
	os.Exit(run(ctx, os.Args[1:], s))
}

// endings are the signals that end a command. Signals that are ignored, as nohup ignores SIGHUP, stay ignored.
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

// version is the version of the module, as recorded by go install and by release builds.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// run parses a command line and runs its command. It returns the exit code.
func run(ctx context.Context, args []string, s *streams) int {
	var c cli
	exited := -1
	parser := newParser(&c, s, kong.Exit(func(code int) { exited = max(exited, code) }), // help, and completion
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(s, &c.connection, slog.New(slog.NewTextHandler(s.err, nil))))
	switch {
	case os.Getenv("COMP_LINE") != "":
		return s.complete(parser)
	case len(args) == 0:
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

// usageOf is the command whose help explains a command line that cannot be parsed.
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
	return parser
}

// textMapper sets strings byte for byte. Kong's own mapper passes strings through JSON, which replaces bytes that are
// not UTF-8, so that exec would pass other arguments to its command than it was given.
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

// ignoreEmptyVariables treats empty environment variables as unset, as AWS's tools do.
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

// An exit is an error that only sets the exit code: its message has been printed, or is none.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// report prints an error as a notice, and returns the exit code.
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
