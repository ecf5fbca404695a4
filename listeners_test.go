package holdfast_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayListen are the files that open a listener without package loopback, which refuses addresses that other machines can reach.
var mayListen = []string{
	"internal/loopback/loopback.go",
	"internal/local/local.go", // with --allow-remote
}

// No program of the project listens beyond loopback, unless a flag says so. Tests may open listeners, and [httptest.NewServer] listens on
// loopback only.
func TestListeners(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "node_modules" || entry.Name() == "dist" || strings.HasPrefix(entry.Name(), ".") && path != "."):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || slices.Contains(mayListen, path):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && listens(s) {
				t.Errorf("%s: %s opens a listener; use loopback.Listen, or say in mayListen which flag allows it", path, s.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// listens reports whether a selector is one of the standard library's ways to open a listener.
func listens(s *ast.SelectorExpr) bool {
	pkg, _ := s.X.(*ast.Ident)
	switch {
	case s.Sel.Name == "ListenAndServe" || s.Sel.Name == "ListenAndServeTLS":
		return true
	case pkg == nil:
		return false
	case pkg.Name == "net":
		return strings.HasPrefix(s.Sel.Name, "Listen") && s.Sel.Name != "Listener"
	}
	return pkg.Name == "tls" && s.Sel.Name == "Listen"
}
