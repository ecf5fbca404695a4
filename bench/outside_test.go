// Package bench tests what the documents say about other libraries and engines. It is a module of its own, so that these are no
// dependencies of the project.
package bench

import (
	"context"
	"database/sql"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"cirello.io/dynamolock/v2"
	_ "modernc.org/sqlite"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// both is the step of docs/migration.md in which a process holds both the old and the new lock.
func both(ctx context.Context, oldLocks *dynamolock.Client, client *lockclient.Client, key, name string, work func(context.Context, *lockclient.Lease) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	old, err := oldLocks.AcquireLockWithContext(ctx, key, dynamolock.WithSessionMonitor(15*time.Second, cancel))
	if err != nil {
		return err
	}
	defer old.Close()
	return client.Do(ctx, name, lockclient.Options{Wait: time.Minute}, work) // its context ends when either lock is lost
}

var _ = both

// recipes are the statements of docs/fencing.md, in their order there.
func recipes(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/fencing.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		list = append(list, strings.TrimSpace(m[1]))
	}
	if len(list) != 3 {
		t.Fatalf("%d statements in docs/fencing.md, want 3", len(list))
	}
	return list
}

// The documented SQL lets the same and a newer holder write, and an older one not.
func TestSQLRecipes(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	ctx := t.Context()
	for _, s := range []string{
		"CREATE TABLE reports (id TEXT PRIMARY KEY, body TEXT, fence BIGINT NOT NULL)", "CREATE TABLE fences (lock TEXT PRIMARY KEY, fence BIGINT NOT NULL)",
		"INSERT INTO reports VALUES ('1', '', 0)", "INSERT INTO fences VALUES ('report:daily', 0)",
	} {
		if _, err := db.ExecContext(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	list := recipes(t)
	args := func(id string, fence int64) [][]any {
		return [][]any{
			{sql.Named("id", id), sql.Named("body", "x"), sql.Named("fence", fence)},
			{sql.Named("id", "new"), sql.Named("body", "x"), sql.Named("fence", fence)},
			{sql.Named("lock", "report:daily"), sql.Named("fence", fence)},
		}
	}
	const newest = 1<<53 - 1
	for i, statement := range list {
		for _, step := range []struct{ fence, rows int64 }{{newest - 2, 1}, {newest - 2, 1}, {newest, 1}, {newest - 1, 0}, {newest, 1}} {
			result, err := db.ExecContext(ctx, statement, args("1", step.fence)[i]...)
			if err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
			if rows, err := result.RowsAffected(); err != nil || rows != step.rows {
				t.Errorf("%s\nwith fence %d: %d rows, want %d, %v", statement, step.fence, rows, step.rows, err)
			}
		}
	}
}
