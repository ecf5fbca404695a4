package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"
)

const (
	completionTime  = 2 * time.Second // in which the coordinator must have answered
	completionNames = 200
)

// complete answers a shell that asks by COMP_LINE how a command line may go on.
func (s *streams) complete(parser *kong.Kong) int {
	command, err := kongcompletion.Command(parser, kongcompletion.WithPredictor("lock", complete.PredictFunc(predictLocks)))
	if err != nil {
		return s.report(err)
	}
	c := complete.New("holdfast", command)
	c.Out = s.out
	if typed := lastWord(os.Getenv("COMP_LINE")); os.Getenv("COMP_TYPE") != "" { // which bash sets, and no other shell
		c.Out = bashWords{s.out, strings.LastIndexAny(typed, ":=") + 1}
	}
	c.Complete()
	return 0
}

func lastWord(line string) string { return line[strings.LastIndexAny(line, " \t")+1:] }

// bashWords writes completions, one a line, without the beginning that bash does not replace: it takes each ":" and "=" for the end of a word.
type bashWords struct {
	out io.Writer
	cut int // bytes
}

func (w bashWords) Write(line []byte) (int, error) {
	_, err := w.out.Write(line[min(w.cut, len(line)):])
	return len(line), err
}

// predictLocks completes the names of locks: those that are held, and those whose records still exist. It asks the coordinator that the command line, or the
// environment, names. Whatever fails, there is nothing to complete.
func predictLocks(a complete.Args) (names []string) {
	var c cli
	parser := newParser(&c, &streams{out: io.Discard, err: io.Discard}, kong.Exit(func(int) {}))
	if _, err := parser.Parse(append([]string{"ls"}, connectionFlags(strings.Fields(os.Getenv("COMP_LINE")))...)); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	client, err := c.client(ctx)
	if err != nil {
		return nil
	}
	for s, err := range client.List(ctx, a.Last, true) {
		if err != nil || len(names) == completionNames {
			break
		}
		names = append(names, s.Lock)
	}
	return names
}

// connectionFlags are the flags of a command line that select the coordinator.
func connectionFlags(words []string) (flags []string) {
	for i, word := range words {
		name, _, withValue := strings.Cut(word, "=")
		switch {
		case !slices.Contains([]string{"--endpoint", "--functions", "--table", "--dynamodb-endpoint", "--region", "--sign"}, name):
		case withValue:
			flags = append(flags, word)
		case i+1 < len(words):
			flags = append(flags, fmt.Sprintf("%s=%s", word, words[i+1]))
		}
	}
	return flags
}
