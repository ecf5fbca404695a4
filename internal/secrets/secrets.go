// Package secrets finds secrets in what a run leaves behind: logs, events, metrics, items, messages. It knows the forms that a secret takes
// on its way through programs: in JSON, in a URL, in base64 within a longer text, in hexadecimal digits, and as a hash without salt.
package secrets

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
)

// The kinds of secrets.
const (
	Lease  = "lease"  // a lease's secret, which nothing may have but the caller
	Token  = "token"  // a callback token, which the table and the messages of the functions have
	Notify = "notify" // the id of a notification, likewise
)

// A Secret is a text that should not be found.
type Secret struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

// A Finding is a secret that was found. It does not have the secret.
type Finding struct {
	Secret int    // the index of the secret
	Kind   string // its kind
	Form   string // the form that it was found in, such as "base64"
	Offset int64  // where, in bytes
}

// minForm is the length in bytes of the shortest form that is searched for: shorter ones are found by chance.
const minForm = 8

// A form is one spelling of a secret.
type form struct {
	name string
	text []byte
}

// forms are the spellings of a secret, without repetitions.
func forms(value string) (list []form) {
	add := func(name, text string) {
		if len(text) >= minForm && !slices.ContainsFunc(list, func(f form) bool { return string(f.text) == text }) {
			list = append(list, form{name, []byte(text)})
		}
	}
	add("plain text", value)
	quoted := inJSON(value)
	add("JSON", quoted)
	add("JSON within JSON", inJSON(quoted))
	add("JSON with escaped HTML", escapedHTML(value))
	add("JSON within JSON", escapedHTML(escapedHTML(value)))
	add("a URL's query", url.QueryEscape(value))
	add("a URL's path", url.PathEscape(value))
	add("a URL, twice", url.QueryEscape(url.QueryEscape(value)))
	add("hexadecimal digits", hex.EncodeToString([]byte(value)))
	add("hexadecimal digits", strings.ToUpper(hex.EncodeToString([]byte(value))))
	for shift := range 3 { // base64 of a longer text depends on where in it the secret begins, modulo 3
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, shift), value...))
			first := []int{0, 2, 3}[shift]              // characters that depend on what is before the secret
			last := (shift + len(value)) / 3 * 4        // characters that do not depend on what follows it
			add("base64", text[first:max(first, last)]) // the rest is the same in every text
		}
	}
	sum := sha256.Sum256([]byte(value))
	add("SHA-256 without salt", hex.EncodeToString(sum[:16])) // or the beginning of it, as a lease's key is
	add("SHA-256 without salt", base64.RawStdEncoding.EncodeToString(sum[:])[:21])
	add("SHA-256 without salt", base64.RawURLEncoding.EncodeToString(sum[:])[:21])
	return list
}

func inJSON(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string
	return unquoted(strings.TrimSuffix(b.String(), "\n"))
}

func escapedHTML(s string) string {
	data, _ := json.Marshal(s) // a string
	return unquoted(string(data))
}

func unquoted(s string) string { return s[1 : len(s)-1] }

// A Searcher searches for secrets. It is safe for concurrent use.
type Searcher struct {
	secrets []Secret
	starts  map[uint64][]int32 // by the first minForm bytes of a form: the secrets that have such a form
	bloom   []uint64           // bits of the starts' hashes
	longest int
}

// bloomBits is the number of bits of the filter, as a power of two: enough for ten million forms.
const bloomBits = 27

// NewSearcher makes a searcher. It fails if a secret is too short to be found otherwise than by chance.
func NewSearcher(list []Secret) (*Searcher, error) {
	s := &Searcher{secrets: list, starts: map[uint64][]int32{}, bloom: make([]uint64, 1<<bloomBits/64)}
	for i, secret := range list {
		if len(secret.Value) < 2*minForm {
			return nil, errors.New("a secret is shorter than 16 bytes; use longer ones in a run that is searched")
		}
		for _, f := range forms(secret.Value) {
			start := binary.LittleEndian.Uint64(f.text)
			bit := mix(start)
			s.bloom[bit/64] |= 1 << (bit % 64)
			if !slices.Contains(s.starts[start], int32(i)) {
				s.starts[start] = append(s.starts[start], int32(i))
			}
			s.longest = max(s.longest, len(f.text))
		}
	}
	return s, nil
}

// mix is a bit of the filter.
func mix(n uint64) uint64 { return n * 0x9e3779b97f4a7c15 >> (64 - bloomBits) }

// chunk is how many bytes are searched at a time.
const chunk = 4 << 20

// Search reads r to its end, decompressed if it is gzip, and returns what it found and the number of bytes read.
func (s *Searcher) Search(r io.Reader) (list []Finding, read int64, err error) {
	magic := make([]byte, 2)
	n, err := io.ReadFull(r, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0, err
	}
	r = io.MultiReader(bytes.NewReader(magic[:n]), r)
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if r, err = gzip.NewReader(r); err != nil {
			return nil, 0, err
		}
	}
	var base int64
	buffer := make([]byte, 0, chunk+s.longest)
	for {
		n, failed := io.ReadFull(r, buffer[len(buffer):chunk])
		buffer = buffer[:len(buffer)+n]
		read += int64(n)
		end := errors.Is(failed, io.EOF) || errors.Is(failed, io.ErrUnexpectedEOF)
		if failed != nil && !end {
			return list, read, failed
		}
		limit := len(buffer) // a form that may go on in the next chunk is looked at there
		if !end {
			limit = max(len(buffer)-s.longest, 0)
		}
		list = append(list, s.in(buffer, limit, base)...)
		if end {
			return list, read, nil
		}
		base += int64(limit)
		buffer = buffer[:copy(buffer, buffer[limit:])]
	}
}

// in returns the findings that begin before limit.
func (s *Searcher) in(data []byte, limit int, base int64) (list []Finding) {
	for i := 0; i < limit && i+minForm <= len(data); i++ {
		start := binary.LittleEndian.Uint64(data[i:])
		if bit := mix(start); s.bloom[bit/64]>>(bit%64)&1 == 0 {
			continue
		}
		for _, n := range s.starts[start] {
			for _, f := range forms(s.secrets[n].Value) {
				if bytes.HasPrefix(data[i:], f.text) {
					list = append(list, Finding{int(n), s.secrets[n].Kind, f.name, base + int64(i)})
					break
				}
			}
		}
	}
	return list
}
