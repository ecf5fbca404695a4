package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A release is a directory of archives.
type release struct{ dir, version, revision string }

// A command is what an archive of the release has for one architecture.
type command struct {
	arch            string
	binary, licence []byte
	time            time.Time // of the release's commit, which GoReleaser gives the binary
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// command reads the archive for an architecture. It checks it against checksums.txt, and the binary's header against the architecture.
func (r *release) command(arch string) (*command, error) {
	archive := fmt.Sprintf("holdfast_%s_linux_%s.tar.gz", r.version, arch)
	data, err := r.verified(archive)
	if err != nil {
		return nil, err
	}
	c := &command{arch: arch}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", archive, err)
		}
		var to *[]byte
		switch h.Name {
		case "holdfast":
			to, c.time = &c.binary, h.ModTime.UTC()
		case "LICENSE":
			to = &c.licence
		default:
			continue
		}
		if *to, err = io.ReadAll(t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", archive, h.Name, err)
		}
	}
	if len(c.binary) == 0 || len(c.licence) == 0 {
		return nil, fmt.Errorf("%s does not have the files holdfast and LICENSE", archive)
	}
	program, err := elf.NewFile(bytes.NewReader(c.binary))
	if err != nil {
		return nil, fmt.Errorf("%s: holdfast is no program for Linux: %w", archive, err)
	}
	if program.Machine != machines[arch] {
		return nil, fmt.Errorf("%s: holdfast is for %s", archive, program.Machine)
	}
	if program.Section(".interp") != nil {
		return nil, fmt.Errorf("%s: holdfast is linked with shared libraries, which the image does not have; build it with CGO_ENABLED=0", archive)
	}
	return c, nil
}

// verified reads a file of the release, whose checksum must be in checksums.txt.
func (r *release) verified(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return nil, fmt.Errorf("-release, -version: %w", err)
	}
	sums, err := os.ReadFile(filepath.Join(r.dir, "checksums.txt"))
	if err != nil {
		return nil, fmt.Errorf("-release: %w", err)
	}
	got := fmt.Sprintf("%x", sha256.Sum256(data))
	for line := range strings.Lines(string(sums)) {
		if want, file, _ := strings.Cut(strings.TrimSpace(line), "  "); file == name {
			if want != got {
				return nil, fmt.Errorf("%s has the SHA-256 %s, but checksums.txt says %s", name, got, want)
			}
			return data, nil
		}
	}
	return nil, fmt.Errorf("checksums.txt does not have %s", name)
}
