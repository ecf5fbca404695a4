package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast-lock/holdfast/internal/secrets"
)

// searchSecrets searches everything that the round left for the secrets of leases that passed the proxy before the coordinators. It adds
// what it finds to the violations, and returns how many secrets there are.
func (r *round) searchSecrets(file string, s *summary) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	var list []secrets.Secret
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		list = append(list, secrets.Secret{Kind: secrets.Lease, Value: lines.Text()})
	}
	if lines.Err() != nil || len(list) == 0 {
		return 0, lines.Err()
	}
	searcher, err := secrets.NewSearcher(list)
	if err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return 0, err
	}
	defer root.Close() //nolint:errcheck // only read
	return len(list), fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		left, err := root.Open(path)
		if err != nil {
			return err
		}
		defer left.Close() //nolint:errcheck // only read
		found, _, err := searcher.Search(left)
		for _, secret := range found {
			s.Violations = append(s.Violations, fmt.Sprintf("secrets: %s has the secret of a lease at byte %d, as %s", entry.Name(), secret.Offset, secret.Form))
		}
		return err
	})
}
