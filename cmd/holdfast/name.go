package main

import (
	"errors"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// nameCmd escapes texts that are not valid names, such as paths and branches.
type nameCmd struct {
	Text   string `arg:"" help:"Any text; with --decode, a name that this command printed."`
	Decode bool   `help:"Print the text of a name."`
}

// Help is shown with name's flags.
func (c *nameCmd) Help() string {
	return `A-Z a-z 0-9 . _ : @ - stay as they are; every other byte becomes = and two hexadecimal digits:

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

// withoutRequest removes the words "request is refused" from a refusal, since name sends no request.
func withoutRequest(err error) error {
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); ok {
		return errors.New(refused.Detail)
	}
	return err
}
