package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where things are in the image.
const (
	binaryPath  = "/usr/local/bin/holdfast" // what COPY --from names
	rootsPath   = "/etc/ssl/certs/ca-certificates.crt"
	licencePath = "/usr/share/doc/holdfast/LICENSE"
)

// user is the user and group that the image runs as: the number that distroless images and others use for nobody in particular.
const user = 65532

var architectures = []string{"amd64", "arm64"}

// index is the image for all architectures.
func (r *release) index() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	labels := map[string]string{
		"org.opencontainers.image.title":       "holdfast",
		"org.opencontainers.image.description": "The command of Holdfast, a lock coordinator for AWS",
		"org.opencontainers.image.source":      "https://github.com/holdfast-lock/holdfast",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     r.version,
		"org.opencontainers.image.revision":    r.revision,
	}
	for _, arch := range architectures {
		c, err := r.command(arch)
		if err != nil {
			return nil, err
		}
		labels["org.opencontainers.image.created"] = c.time.Format(time.RFC3339)
		image, err := c.image(labels)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	annotated, ok := mutate.Annotations(index, labels).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("an annotated index is %T", annotated)
	}
	return annotated, nil
}

// image is the image for one architecture: a layer that changes with the roots, and one that changes with the command.
func (c *command) image(labels map[string]string) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, files := range [][]file{base(), {
		{name: licencePath, mode: 0o644, data: c.licence},
		{name: binaryPath, mode: 0o755, data: c.binary},
	}} {
		layer, err := layer(files, c.time)
		if err != nil {
			return nil, err
		}
		if image, err = mutate.Append(image, mutate.Addendum{
			Layer: layer, History: v1.History{Created: v1.Time{Time: c.time}, CreatedBy: "scripts/image"}, MediaType: types.OCILayer,
		}); err != nil {
			return nil, err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", c.arch, v1.Time{Time: c.time}
	config.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{binaryPath}, WorkingDir: "/", Labels: maps.Clone(labels),
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"},
	}
	return mutate.ConfigFile(image, config)
}

// A file is a file of a layer, or a folder if its name ends in a slash.
type file struct {
	name string
	mode int64
	data []byte
}

// base is what a Go program finds on a machine: a folder for temporary files, a name for its user, and the roots that TLS trusts.
func base() []file {
	return []file{
		{name: "/tmp/", mode: 0o1777},
		{name: "/etc/passwd", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nholdfast:x:%d:%d:holdfast:/tmp:/sbin/nologin\n", user, user)},
		{name: "/etc/group", mode: 0o644, data: fmt.Appendf(nil, "root:x:0:\nholdfast:x:%d:\n", user)},
		{name: rootsPath, mode: 0o644, data: roots()},
	}
}

// roots are the root certificates of Mozilla's list, as golang.org/x/crypto keeps it. Those that Mozilla trusts only for certificates of
// before some date are left out: a file of certificates cannot say so.
func roots() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer does not fail
		}
	}
	return b.Bytes()
}

// layer makes a layer of files, and the folders above them. All belong to root and have one time, so that a layer depends on its files alone.
func layer(files []file, at time.Time) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	for _, f := range files {
		for i := 1; i < len(f.name); i++ {
			if dir := f.name[1 : i+1]; f.name[i] == '/' && !made[dir] && dir != f.name[1:] {
				made[dir] = true
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: at, Format: tar.FormatPAX}); err != nil {
					return nil, err
				}
			}
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name[1:], Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Format: tar.FormatPAX}
		if f.name[len(f.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
}
