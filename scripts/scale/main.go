// Command scale measures and models how far a coordinator scales, for docs/scale.md.
//
//	scale list -rows 100000        what a list of a prefix costs in a table of so many locks, by scan and by index
//	scale load -rate 200 ...       runs an open-loop load, and compares its requests and units with the model's
//	scale model -rate 5000 ...     the utilisation of each limit, the first bottlenecks, and dollars
//	scale plots -out docs/scale    draws the plots
//
// list and load need DynamoDB Local at HOLDFAST_DYNAMODB_ENDPOINT (scripts/with-dynamodb.sh); nothing else leaves this machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// commands are the subcommands, by name.
var commands = map[string]func(ctx context.Context, args []string) error{
	"list": list, "load": load, "model": modelled, "plots": plots,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := errors.New("give a command: list, load, model or plots")
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		err = commands[os.Args[1]](ctx, os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// local is the endpoint of DynamoDB Local.
func local() (string, error) {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		return "", errors.New("HOLDFAST_DYNAMODB_ENDPOINT is not set: run scripts/with-dynamodb.sh")
	}
	if !strings.HasPrefix(endpoint, "http://127.0.0.1:") {
		return "", fmt.Errorf("HOLDFAST_DYNAMODB_ENDPOINT is %s; this command writes many rows, and does so only to http://127.0.0.1:PORT", endpoint)
	}
	return endpoint, nil
}

func awsConfig() aws.Config {
	return aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
}
