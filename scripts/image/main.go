// Command image makes the container image of a release: the command for linux/amd64 and linux/arm64, the roots of public certificate
// authorities, and no more. It needs no container engine. The image of a release is always the same, byte by byte: its times are those of the
// release's commit.
//
//	go run . -release DIR -version 0.1.0 -revision COMMIT -layout OUT   writes it as an OCI layout
//	go run . -release DIR -version 0.1.0 -revision COMMIT -push IMAGE   pushes it with the tag of the version
//
// DIR has the archives of the command and checksums.txt, as GoReleaser made them. The last line of the output is digest=sha256:…, as a step of
// a workflow sets an output. With GITHUB_TOKEN the program may push to ghcr.io; else it uses the credentials of docker login.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/authn/github"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	var r release
	flags.StringVar(&r.dir, "release", "", "the `directory` of the release's archives and checksums.txt")
	flags.StringVar(&r.version, "version", "", "the release's version, without v")
	flags.StringVar(&r.revision, "revision", "", "the release's commit, for a label of the image")
	dir := flags.String("layout", "", "write the image as an OCI layout into this new `directory`")
	to := flags.String("push", "", "push the image to this `repository`, such as ghcr.io/holdfast-lock/holdfast")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, f := range []struct{ name, value string }{{"release", r.dir}, {"version", r.version}, {"revision", r.revision}} {
		if f.value == "" {
			return fmt.Errorf("-%s is missing; -help tells what it is", f.name)
		}
	}
	if (*dir == "") == (*to == "") {
		return errors.New("give -layout or -push, where the image goes")
	}
	index, err := r.index()
	if err != nil {
		return err
	}
	if *dir != "" {
		err = write(*dir, index)
	} else {
		err = push(ctx, *to, r.version, index)
	}
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "digest=%s\n", digest)
	return err
}

// write makes an OCI layout with one image, which is for several platforms.
func write(dir string, index v1.ImageIndex) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return fmt.Errorf("-layout: %w", err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(index)
}

// push writes the image to a registry, tagged with the version. A repeated push changes nothing.
func push(ctx context.Context, repository, version string, index v1.ImageIndex) error {
	tag, err := name.NewTag(repository+":"+version, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	keychain := authn.NewMultiKeychain(authn.DefaultKeychain, github.Keychain)
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain)); err != nil {
		return fmt.Errorf("pushing %s: %w", tag, err)
	}
	return nil
}
