// Command secrets searches what a run left behind for the secrets of the run. It prints where one was found and in which form, never the
// secret, and then exits with 1.
//
//	secrets --secrets FILE [--may KIND=GLOB]... PATH...
//
// FILE has a secret in each line: the text of a lease's secret, or {"kind":"token","value":"…"}. It must lie outside the paths. A callback
// token, and the id of a notification, may be in files whose base name matches a GLOB of its kind; a lease's secret may be in none.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/holdfast-lock/holdfast/internal/secrets"
)

type options struct {
	Secrets string   `required:"" type:"existingfile" placeholder:"FILE" help:"The secrets, one a line."`
	May     []string `placeholder:"KIND=GLOB" default:"token=items*,token=dead*,token=jobs*,notify=items*,notify=dead*,notify=jobs*" help:"Where secrets of a kind may be: base names of files."`
	Paths   []string `arg:"" type:"existingdir" help:"Directories to search."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("secrets"))
	found, err := o.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "secrets:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// maxPrinted is how many findings are printed; the rest are counted.
const maxPrinted = 50

func (o *options) run() (found int, err error) {
	list, err := read(o.Secrets)
	if err != nil {
		return 0, err
	}
	searcher, err := secrets.NewSearcher(list)
	if err != nil {
		return 0, err
	}
	files, size := 0, int64(0)
	for _, root := range o.Paths {
		err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			findings, n, err := searchFile(searcher, file)
			if err != nil {
				return err
			}
			files, size = files+1, size+n
			for _, f := range findings {
				if o.allowed(f.Kind, file) {
					continue
				}
				if found++; found <= maxPrinted {
					fmt.Printf("%s: byte %d: the %s of line %d of the secrets, as %s\n", file, f.Offset, f.Kind, f.Secret+1, f.Form)
				}
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	if size == 0 {
		return found, errors.New("the paths have no files with content, so nothing was searched")
	}
	fmt.Printf("secrets: %d secrets, %d files, %.1f MB searched, %d findings\n", len(list), files, float64(size)/1e6, found)
	return found, nil
}

func searchFile(searcher *secrets.Searcher, file string) ([]secrets.Finding, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	return searcher.Search(f)
}

// allowed reports whether a secret of a kind may be in a file.
func (o *options) allowed(kind, file string) bool {
	for _, may := range o.May {
		k, glob, _ := strings.Cut(may, "=")
		if match, _ := path.Match(glob, filepath.Base(file)); match && k == kind && kind != secrets.Lease {
			return true
		}
	}
	return false
}

func read(file string) (list []secrets.Secret, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		secret := secrets.Secret{Kind: secrets.Lease, Value: line}
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &secret); err != nil {
				return nil, fmt.Errorf("line %d of %s is not a secret in JSON: %w", len(list)+1, file, err)
			}
		}
		if line != "" {
			list = append(list, secret)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no secrets, so nothing can be found", file)
	}
	return list, nil
}
