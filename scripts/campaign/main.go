// Command campaign lets many processes use locks through faults, and checks what they saw. docs/campaign.md describes it; the Makefile has
// its settings. It starts itself again in other roles: a round, a coordinator, a client, the stream's process, and so on.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/alecthomas/kong"
)

// roles are the processes that the campaign starts. Each gets its configuration as JSON.
var roles = map[string]func(config string) error{
	"round": runRound, "coordinator": runCoordinator, "client": runClient, "consumer": runConsumer, "holder": runHolder, "inside": runInside,
}

func main() {
	if len(os.Args) == 3 {
		if role, ok := roles[os.Args[1]]; ok {
			if err := role(os.Args[2]); err != nil {
				fmt.Fprintf(os.Stderr, "campaign %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	var c campaign
	kong.Parse(&c, kong.Name("campaign"), kong.Description("Lets many processes use locks through faults, and checks what they saw."))
	if err := c.run(time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
		os.Exit(1)
	}
}
