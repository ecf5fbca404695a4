package dynamo

import (
	"context"
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

const (
	maxKey    = 1024 // bytes of a key in a cursor: a scan may end at any item
	scanLimit = 1000 // items that one Scan reads
	maxScans  = 10   // Scans for one page
)

// List implements [lock.Store]. It scans the table, unless it is asked for a prefix and the index of names takes fewer units and requests
// than the scan; see [Store.indexPays]. The cursor of a list says which of the two it continues.
func (s *Store) List(ctx context.Context, q lock.ListQuery) (lock.Page, error) {
	at, err := parseCursor(q.Cursor)
	if err != nil {
		return lock.Page{}, err
	}
	if at.byName {
		return s.listByName(ctx, q, at.name)
	}
	return s.listByScan(ctx, q, at.key)
}

// listByScan reads a page with consistent Scans, which read every item and order nothing. A page reads at most 10,000 items and may be
// short. If the first Scan of a list neither fills the page nor ends the table, the index may take over. So the list of a small table, or of
// a prefix that most names have, is not a request longer for there being an index.
func (s *Store) listByScan(ctx context.Context, q lock.ListQuery, start item) (lock.Page, error) {
	in := s.scanInput(q)
	var page lock.Page
	size := 0
	for n := range maxScans {
		in.ExclusiveStartKey = start
		out, err := s.client.Scan(ctx, in)
		if err != nil {
			return lock.Page{}, s.fault(ctx, "Scan", err)
		}
		for _, it := range out.Items {
			name := (&decoder{it: it}).str(attrPK)
			r, err := Decode(it)
			if err != nil {
				return lock.Page{}, s.corrupt(name, err)
			}
			if len(page.Entries) == q.Limit || size > lock.MaxPageBytes {
				page.Next = cursor(key(page.Entries[len(page.Entries)-1].Name))
				return page, nil
			}
			page.Entries, size = append(page.Entries, lock.Entry{Name: name, Record: r}), size+r.Size()
		}
		start = out.LastEvaluatedKey
		if page.Next = cursor(start); page.Next == "" || len(page.Entries) == q.Limit {
			break
		}
		if n == 0 && q.Cursor == "" && q.Prefix != "" {
			pays, err := s.indexPays(ctx, q.Prefix)
			if err != nil {
				return lock.Page{}, err
			}
			if pays {
				return s.listByName(ctx, q, "")
			}
		}
	}
	return page, nil
}

func (s *Store) scanInput(q lock.ListQuery) *dynamodb.ScanInput {
	filter := "#sk = :lock"
	names := map[string]string{"#sk": attrSK}
	values := item{":lock": str(skLock)}
	if q.Prefix != "" {
		filter += " AND begins_with(#pk, :prefix)"
		names["#pk"], values[":prefix"] = attrPK, str(q.Prefix)
	}
	if q.HeldAfter != 0 {
		filter += " AND (#free_at > :held_after OR #waiting > :none)"
		names["#free_at"], values[":held_after"] = attrFreeAt, num(q.HeldAfter)
		names["#waiting"], values[":none"] = attrWaiting, num(0)
	}
	return &dynamodb.ScanInput{
		TableName: aws.String(s.table), FilterExpression: aws.String(filter), ExpressionAttributeNames: names,
		ExpressionAttributeValues: values, Limit: aws.Int32(scanLimit), ConsistentRead: aws.Bool(true),
	}
}

// A position is what a cursor says: where a scan continues, or after which name a list by the index does.
type position struct {
	key    item
	byName bool
	name   string
}

// A cursor is the base64 of a key's two texts with a zero byte between; nameCursor has an empty text before it.
func cursor(k item) string {
	if len(k) == 0 {
		return ""
	}
	d := decoder{it: k}
	return base64.RawURLEncoding.EncodeToString([]byte(d.str(attrPK) + "\x00" + d.str(attrSK)))
}

func nameCursor(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("\x00" + name))
}

func parseCursor(cursor string) (position, error) {
	if cursor == "" {
		return position{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	pk, sk, ok := strings.Cut(string(raw), "\x00")
	if err != nil || !ok || sk == "" || len(pk) > maxKey || len(sk) > maxKey || !utf8.Valid(raw) {
		return position{}, lock.ErrBadCursor
	}
	if pk == "" {
		return position{byName: true, name: sk}, nil
	}
	return position{key: item{attrPK: str(pk), attrSK: str(sk)}}, nil
}

// cursorKey is the key of a cursor of a scan.
func cursorKey(cursor string) (item, error) {
	at, err := parseCursor(cursor)
	if at.byName {
		return nil, lock.ErrBadCursor
	}
	return at.key, err
}
