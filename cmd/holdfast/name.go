package main

import (
	"errors"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// nameCmd makes names of texts that are none, such as paths and the names of branches.
type nameCmd struct {
	Text   string `arg:"" help:"Any text; with --decode, a name that this command made."`
	Decode bool   `help:"Give the text of a name."`
}

// Help is shown with name's flags.
func (c *nameCmd) Help() string {
	return `A-Z a-z 0-9 . _ : @ - stay, and every other byte becomes = and two hexadecimal digits:

  holdfast exec "deploy:$(holdfast name "$BRANCH")" -- ./deploy.sh`
}

// Run prints a name, or the text of one.
func (c *nameCmd) Run(s *streams) error {
	if c.Decode {
		text, err := lockclient.UnescapeName(c.Text)
		if err != nil {
			return withoutRequest(err)
		}
		if s.outTTY {
			text = printable(text)
		}
		return s.result(map[string]any{"name": c.Text, "text": text}, text)
	}
	name, err := lockclient.EscapeName(c.Text)
	if err != nil {
		return withoutRequest(err)
	}
	return s.result(map[string]any{"name": name, "text": c.Text}, name)
}

// withoutRequest is a refusal without the words "request is refused": name sends no request.
func withoutRequest(err error) error {
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); ok {
		return errors.New(refused.Detail)
	}
	return err
}
