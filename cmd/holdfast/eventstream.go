package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// errNoEvents says that a coordinator has no live stream of events: a local one has, one in AWS has not.
var errNoEvents = errors.New("the coordinator has no stream of events")

// A streamStatus is the error of a stream of events that is answered otherwise.
type streamStatus int

func (s streamStatus) Error() string {
	return fmt.Sprintf("the stream of events is answered %d %s", int(s), http.StatusText(int(s)))
}

// readStream gives the lines of a coordinator's live stream of events (server-sent events) to line, until the stream or ctx ends, or line returns an error. It calls
// connected before the first. The errors are errNoEvents, a [streamStatus], that of line, and those of the connection; nil: the stream ended.
func readStream(ctx context.Context, client *http.Client, endpoint, prefix string, connected func(), line func(string) error) error {
	from := strings.TrimRight(endpoint, "/") + "/v1/events?prefix=" + url.QueryEscape(prefix)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoEvents, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch media := resp.Header.Get("Content-Type"); {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusOK && media != "text/event-stream":
		return errNoEvents
	case resp.StatusCode != http.StatusOK:
		return streamStatus(resp.StatusCode)
	}
	connected()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20) // an event is at most 256 KB
	for lines.Scan() {
		if err := line(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// streamClient connects to the coordinator for its stream of events.
func (c *connection) streamClient() *http.Client {
	if client := c.httpClient(); client != nil {
		return client
	}
	return http.DefaultClient
}
