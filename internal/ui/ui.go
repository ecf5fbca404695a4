// Package ui is the live page: it shows the locks of a coordinator in a browser on the same machine, and force-releases them.
//
// The page is a server of its own on a loopback address. It asks the coordinator through a [Source], which has the credentials; the browser has a
// token of this process instead, which the link that the process prints carries in its fragment. A [Page] reads the list of locks for all its
// tabs together, and sends each tab what changed.
package ui

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

//go:embed web
var web embed.FS

// A Source is the coordinator that a page shows. Its methods must be safe for concurrent use. Their errors are or wrap a [*Failure].
type Source interface {
	// List lists the locks whose names begin with prefix: those that are held, or all that the coordinator remembers. An error is the last element.
	List(ctx context.Context, prefix string, all bool) iter.Seq2[wire.Status, error]
	// Status reads a lock, with the first waiters of its queue, as many as it is asked for. A coordinator of an older version names none.
	Status(ctx context.Context, name string, waiters int) (wire.Status, error)
	History(ctx context.Context, name string, r wire.HistoryRequest) (wire.History, error)
	Rules(ctx context.Context) ([]wire.Rule, error)
	ForceRelease(ctx context.Context, name string, r wire.ForceReleaseRequest) (wire.ForceReleased, error)
}

// A Failure is why a request had no success, as the page shows it.
type Failure struct {
	Status int    `json:"status"` // of HTTP; 0 if there was no answer
	Code   string `json:"code"`   // of the API's problem, or a code of the page
	Detail string `json:"detail"` // what is wrong and what to do
}

func (f *Failure) Error() string { return f.Detail }

// Config configures a [Page].
type Config struct {
	Source Source
	Where  string // the coordinator, in words
	Prefix string // the page shows only the locks whose names begin with this
	// Every is the least time between two lists, 100 ms at least. A list that takes long makes the pauses longer: the lists take a tenth of the time at most.
	Every time.Duration
	// Changed, if not nil, gives the names of locks that have changed. The page then reads them at once.
	Changed <-chan string
	Log     *slog.Logger
}

// A Page serves the live page. Make it by [New].
type Page struct {
	cfg   Config
	token string
	hosts []string // the Host headers by which this server is called
	board *board
	files http.Handler
}

// New makes a page that is served at a listener's address, such as 127.0.0.1:40123.
func New(cfg Config, address string) (*Page, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(web, "web")
	if err != nil {
		return nil, err
	}
	if cfg.Every < minPause {
		return nil, errors.New("ui: Config.Every is less than 100 ms")
	}
	return &Page{
		cfg: cfg, token: rand.Text(), board: newBoard(), files: http.FileServerFS(files),
		hosts: []string{address, "127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port},
	}, nil
}

// Link returns the address to open in a browser. Who knows it can do on this machine what the page can do.
func (p *Page) Link() string { return "http://" + p.hosts[0] + "/#token=" + p.token }

const (
	minPause      = 100 * time.Millisecond
	answerTimeout = 30 * time.Second // of a request to the page, which waits for one to the coordinator
)

// Serve serves the page at a listener until ctx ends, and follows the coordinator while a tab is open.
func (p *Page) Serve(ctx context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	following := make(chan struct{})
	go func() {
		defer close(following)
		p.follow(ctx)
	}()
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: answerTimeout + 5*time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelWarn), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer ended()
	err := server.Serve(listener)
	stop()
	<-following
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
