package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// at is the time of the release's commit.
var at = time.Date(2026, 11, 1, 12, 30, 0, 0, time.UTC)

// binaries are the programs of the release by architecture: this machine's is the command, and the other does nothing, since this machine
// could not run it.
var binaries map[string][]byte

// small are programs that do nothing, by architecture.
var small map[string][]byte

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func build() error {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	nothing := filepath.Join(dir, "nothing.go")
	if err := os.WriteFile(nothing, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return err
	}
	small = map[string][]byte{}
	for _, arch := range architectures {
		if small[arch], err = compile(dir, ".", nothing, arch); err != nil {
			return err
		}
	}
	binaries = maps.Clone(small)
	binaries[runtime.GOARCH], err = compile(dir, "../..", "./cmd/holdfast", runtime.GOARCH)
	return err
}

func compile(dir, in, pkg, arch string) ([]byte, error) {
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir, cmd.Env = in, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s for %s: %w: %s", pkg, arch, err, text)
	}
	return os.ReadFile(out)
}

// newReleaseOf makes a directory with the release 1.2.3 of these programs.
func newReleaseOf(t *testing.T, binaries map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	var sums bytes.Buffer
	for _, arch := range architectures {
		name := "holdfast_1.2.3_linux_" + arch + ".tar.gz"
		data := archive(t, map[string][]byte{"LICENSE": []byte("the licence"), "README.md": nil, "holdfast": binaries[arch]})
		put(t, dir, name, data)
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
	}
	put(t, dir, "checksums.txt", sums.Bytes())
	return dir
}

func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), ModTime: at})
		if _, err2 := w.Write(files[name]); errors.Join(err, err2) != nil {
			t.Fatal(err, err2)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// made runs the program, and returns the digest that it printed.
func made(t *testing.T, dir string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"-release", dir, "-version", "1.2.3", "-revision", "c0ffee"}, args...), &out); err != nil {
		t.Fatal(err)
	}
	digest, ok := strings.CutPrefix(strings.TrimSpace(out.String()), "digest=")
	if !ok {
		t.Fatalf("the program printed %q", out.String())
	}
	return digest
}

// read reads the one image of an OCI layout.
func read(t *testing.T, dir string) v1.ImageIndex {
	t.Helper()
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := root.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	index, err := root.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// image is the image of an index for an architecture.
func image(t *testing.T, index v1.ImageIndex, arch string) v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform.Satisfies(v1.Platform{OS: "linux", Architecture: arch}) {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("no image for %s in %+v", arch, manifest)
	return nil
}

// What the image has: one layer of what does not change with the command, and one of the command; the same configuration for each architecture.
func TestImage(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	digest := made(t, newReleaseOf(t, small), "-layout", out)
	index := read(t, out)
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	if d, err := index.Digest(); err != nil || d.String() != digest {
		t.Errorf("the layout has the digest %s, %v; the program printed %s", d, err, digest)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 2 || manifest.Annotations["org.opencontainers.image.version"] != "1.2.3" {
		t.Errorf("the index is %+v, %v", manifest, err)
	}
	for _, arch := range architectures {
		image := image(t, index, arch)
		c, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if c.OS != "linux" || c.Architecture != arch || c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{binaryPath}) || !c.Created.Equal(at) {
			t.Errorf("%s: the configuration is %+v", arch, c)
		}
		for label, want := range map[string]string{
			"version": "1.2.3", "revision": "c0ffee", "created": "2026-11-01T12:30:00Z", "licenses": "Apache-2.0", "source": "https://github.com/holdfast-lock/holdfast",
		} {
			if got := c.Config.Labels["org.opencontainers.image."+label]; got != want {
				t.Errorf("%s: the label %s is %q, want %q", arch, label, got, want)
			}
		}
		if layers, err := image.Layers(); err != nil || len(layers) != 2 {
			t.Errorf("%s: %d layers, %v", arch, len(layers), err)
		}
		got := files(t, image)
		want := map[string]string{
			"etc": "drwxr-xr-x", "etc/ssl": "drwxr-xr-x", "etc/ssl/certs": "drwxr-xr-x", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r--", "etc/passwd": "-rw-r--r--",
			"etc/group": "-rw-r--r--", "tmp": "dtrwxrwxrwx", "usr": "drwxr-xr-x", "usr/local": "drwxr-xr-x", "usr/local/bin": "drwxr-xr-x",
			"usr/local/bin/holdfast": "-rwxr-xr-x", "usr/share": "drwxr-xr-x", "usr/share/doc": "drwxr-xr-x", "usr/share/doc/holdfast": "drwxr-xr-x",
			"usr/share/doc/holdfast/LICENSE": "-rw-r--r--",
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: the files are %v\nwant %v", arch, got, want)
		}
	}
}

// files are the files of an image, with their modes. All belong to root, and have the time of the commit.
func files(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	list := map[string]string{}
	unpack(t, image, func(h *tar.Header, _ io.Reader) {
		list[h.Name] = h.FileInfo().Mode().String()
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(at) {
			t.Errorf("%s belongs to %d:%d, and is of %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
	})
	return list
}

// unpack calls do with each file of an image.
func unpack(t *testing.T, image v1.Image, do func(*tar.Header, io.Reader)) {
	t.Helper()
	content := mutate.Extract(image)
	defer func() { _ = content.Close() }()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		do(h, r)
	}
}

// The image of a release is always the same; another version or another command is another image.
func TestImageIsReproducible(t *testing.T) {
	t.Parallel()
	first := made(t, newReleaseOf(t, small), "-layout", filepath.Join(t.TempDir(), "out"))
	if again := made(t, newReleaseOf(t, small), "-layout", filepath.Join(t.TempDir(), "out")); again != first {
		t.Errorf("two images of one release are %s and %s", first, again)
	}
	if other := made(t, newReleaseOf(t, small), "-layout", filepath.Join(t.TempDir(), "out"), "-revision", "beef"); other == first {
		t.Error("the image of another commit is the same")
	}
}

// The image goes to a registry and back: the registry has the digest that the program printed, and a second push changes nothing.
func TestImageIsPushed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/holdfast-lock/holdfast"
	dir := newReleaseOf(t, small)
	digest := made(t, dir, "-push", repository)
	tag, err := name.NewTag(repository + ":1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if d, err := index.Digest(); err != nil || d.String() != digest {
		t.Errorf("the registry has the digest %s, %v; the program printed %s", d, err, digest)
	}
	if again := made(t, dir, "-push", repository); again != digest {
		t.Errorf("a second push has the digest %s, the first %s", again, digest)
	}
	tags, err := remote.List(tag.Repository)
	if err != nil || !slices.Equal(tags, []string{"1.2.3"}) {
		t.Errorf("the registry has the tags %v, %v", tags, err)
	}
}

// Go's TLS can read the roots, which have those of AWS.
func TestRoots(t *testing.T) {
	t.Parallel()
	n, amazon := 0, 0
	for rest := roots(); len(rest) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("%d certificates, and then %.40q", n, rest)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(c.Subject.CommonName, "Amazon Root CA ") {
			amazon++
		}
	}
	if n < 100 || amazon != 4 {
		t.Errorf("%d roots, %d of Amazon; want 100 at least, and 4", n, amazon)
	}
}

// The root file system alone is enough: with it as its root, and as the image's user, the command prints its version and uses a coordinator,
// also over HTTPS with the roots of the image.
func TestImageRuns(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	made(t, newReleaseOf(t, binaries), "-layout", out)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, image(t, read(t, out), runtime.GOARCH), func(h *tar.Header, r io.Reader) { extract(t, root, h, r) })
	coordinator := serve(t, filepath.Join(root, binaryPath))

	if code, text := inImage(t, root, "--version"); code != 0 || strings.TrimSpace(text) == "" {
		t.Errorf("--version: exit code %d\n%s", code, text)
	}
	for _, args := range []string{"acquire deploy:prod --lease-file /tmp/lease", "status deploy:prod", "release deploy:prod --lease-file /tmp/lease"} {
		if code, text := inImage(t, root, append(strings.Fields(args), "--endpoint", coordinator.String())...); code != 0 {
			t.Errorf("%s: exit code %d\n%s", args, code, text)
		}
	}
	secure := httptest.NewUnstartedServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(coordinator) }})
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that fails
	secure.StartTLS()
	t.Cleanup(secure.Close)
	code, text := inImage(t, root, "status", "deploy:prod", "--endpoint", secure.URL)
	if code == 0 || !strings.Contains(text, "unknown authority") {
		t.Errorf("a coordinator with a certificate of nobody: exit code %d\n%s", code, text)
	}
	trust, err := os.OpenFile(filepath.Join(root, rootsPath), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(pem.Encode(trust, &pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), trust.Close())
	if code, text := inImage(t, root, "status", "deploy:prod", "--endpoint", secure.URL); err != nil || code != 0 {
		t.Errorf("a coordinator whose certificate is among the roots: exit code %d\n%s", code, text)
	}
}

// extract makes a file of the image.
func extract(t *testing.T, root string, h *tar.Header, r io.Reader) {
	t.Helper()
	path := filepath.Join(root, filepath.Clean("/"+h.Name))
	if h.Typeflag == tar.TypeDir {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, h.FileInfo().Mode()); err != nil {
		t.Fatal(err)
	}
}

// inImage runs the command with the image's root file system and user. Only root may do that: sudo, for others.
func inImage(t *testing.T, root string, args ...string) (code int, output string) {
	t.Helper()
	line := slices.Concat([]string{"chroot", fmt.Sprintf("--userspec=%d:%d", user, user), root, binaryPath}, args)
	if os.Geteuid() != 0 {
		line = slices.Concat([]string{"sudo", "-n"}, line)
	}
	cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}
	text, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(text)
	}
	if err != nil {
		t.Fatalf("%v: %v", line, err)
	}
	return 0, string(text)
}

// serve runs a coordinator in memory, and returns its URL.
func serve(t *testing.T, binary string) *url.URL {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, binary, "dev", "--listen", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, at, ok := strings.Cut(lines.Text(), "holdfast dev: "); ok {
			u, err := url.Parse(strings.TrimSpace(at))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for lines.Scan() {
				}
			}()
			return u
		}
	}
	t.Fatalf("holdfast dev did not start: %v", lines.Err())
	return nil
}

// Each error names what is wrong.
func TestErrors(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(dir string){
		"holdfast_1.2.3_linux_arm64.tar.gz: no such file":               func(dir string) { _ = os.Remove(filepath.Join(dir, "holdfast_1.2.3_linux_arm64.tar.gz")) },
		"checksums.txt: no such file":                                   func(dir string) { _ = os.Remove(filepath.Join(dir, "checksums.txt")) },
		"checksums.txt does not have holdfast_1.2.3_linux_amd64.tar.gz": func(dir string) { put(t, dir, "checksums.txt", nil) },
		"has the SHA-256": func(dir string) { put(t, dir, "holdfast_1.2.3_linux_amd64.tar.gz", archive(t, nil)) },
		"does not have the files holdfast and LICENSE": func(dir string) { replace(t, dir, "amd64", map[string][]byte{"holdfast": small["amd64"]}) },
		"amd64.tar.gz: holdfast is for EM_AARCH64": func(dir string) {
			replace(t, dir, "amd64", map[string][]byte{"LICENSE": {1}, "holdfast": small["arm64"]})
		},
		"holdfast is no program for Linux": func(dir string) {
			replace(t, dir, "arm64", map[string][]byte{"LICENSE": {1}, "holdfast": []byte("MZ")})
		},
		"holdfast_1.2.3_linux_amd64.tar.gz: gzip: invalid header": func(dir string) { replaceRaw(t, dir, "amd64", []byte("not an archive")) },
	} {
		dir := newReleaseOf(t, small)
		change(dir)
		err := run(t.Context(), []string{"-release", dir, "-version", "1.2.3", "-revision", "c0ffee", "-layout", filepath.Join(t.TempDir(), "out")}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v; want %q", err, says)
		}
	}
	for says, args := range map[string][]string{
		"-release is missing":                         {"-version", "1.2.3", "-revision", "c", "-layout", "x"},
		"-version is missing":                         {"-release", "x", "-revision", "c", "-layout", "x"},
		"-revision is missing":                        {"-release", "x", "-version", "1.2.3", "-layout", "x"},
		"give -layout or -push, where the image goes": {"-release", "x", "-version", "1.2.3", "-revision", "c"},
		"-layout: mkdir " + t.TempDir():               nil,
		"-push: repository can only contain":          nil,
	} {
		if args == nil {
			args = []string{"-release", newReleaseOf(t, small), "-version", "1.2.3", "-revision", "c"}
			if dir, ok := strings.CutPrefix(says, "-layout: mkdir "); ok {
				args = append(args, "-layout", dir)
			} else {
				args = append(args, "-push", "UPPER/x")
			}
		}
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v; want %q", err, says)
		}
	}
}

// replace puts another archive into a release, with its checksum.
func replace(t *testing.T, dir, arch string, files map[string][]byte) {
	t.Helper()
	replaceRaw(t, dir, arch, archive(t, files))
}

func replaceRaw(t *testing.T, dir, arch string, data []byte) {
	t.Helper()
	name := "holdfast_1.2.3_linux_" + arch + ".tar.gz"
	put(t, dir, name, data)
	sums, err := os.ReadFile(filepath.Join(dir, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(sums)) {
		if !strings.HasSuffix(strings.TrimSpace(line), name) {
			b.WriteString(line)
		}
	}
	fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), name)
	put(t, dir, "checksums.txt", b.Bytes())
}
