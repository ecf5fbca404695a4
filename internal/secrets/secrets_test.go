package secrets

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

const lease, token = "s3cret_lease-0123456789", "AQCE+/token<&>\"with\\signs=="

func search(t *testing.T, text string) []Finding {
	t.Helper()
	s, err := NewSearcher([]Secret{{Lease, "another-secret-0000"}, {Lease, lease}, {Token, token}})
	if err != nil {
		t.Fatal(err)
	}
	list, read, err := s.Search(strings.NewReader(text))
	if err != nil || read == 0 {
		t.Fatal(read, err)
	}
	return list
}

// A secret is found in every form that a program gives to it, wherever it stands in a longer text.
func TestForms(t *testing.T) {
	jsonOf := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for n, secret := range []string{1: lease, 2: token} {
		if secret == "" {
			continue
		}
		sum := sha256.Sum256([]byte(secret))
		for name, text := range map[string]string{
			"plain": "lease=" + secret, "JSON": jsonOf(map[string]string{"lease": secret}), "JSON in JSON": jsonOf(jsonOf(map[string]string{"lease": secret})),
			"%q": fmt.Sprintf("error: %q", secret), "query": "/v1/locks?lease=" + url.QueryEscape(secret), "path": "/v1/" + url.PathEscape(secret), "twice": url.QueryEscape(url.QueryEscape(secret)),
			"hex": hex.EncodeToString([]byte("lease=" + secret)), "HEX": fmt.Sprintf("%X", secret),
			"base64 0": base64.StdEncoding.EncodeToString([]byte(`{"l":` + secret + "}}")), "base64 1": base64.StdEncoding.EncodeToString([]byte(`{"le":` + secret + "}")),
			"base64 2": base64.URLEncoding.EncodeToString([]byte(`{"lea":` + secret + "x")), "hash": hex.EncodeToString(sum[:]), "hash in base64": base64.StdEncoding.EncodeToString(sum[:]),
		} {
			if list := search(t, "before "+text+" after"); len(list) != 1 || list[0].Secret != n {
				t.Errorf("%s of secret %d: %+v", name, n, list)
			}
		}
	}
	// What the coordinator stores is a hash with the lock's name, which is no secret's form.
	if list := search(t, string(lock.KeyOf("deploy:prod", lease))+lease[:12]+token[:12]); list != nil {
		t.Errorf("found %+v", list)
	}
}

// A secret is found across the chunks of a large file, with its offset, and in a compressed one.
func TestLargeAndCompressed(t *testing.T) {
	s, err := NewSearcher([]Secret{{Lease, lease}})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{1, chunk - 3, 2*chunk - len(lease)} {
		data := bytes.Repeat([]byte{'x'}, 2*chunk)
		copy(data[at:], lease)
		list, read, err := s.Search(bytes.NewReader(data))
		if err != nil || read != int64(len(data)) || len(list) != 1 || list[0].Offset != int64(at) {
			t.Errorf("at %d: %+v, %d bytes, %v", at, list, read, err)
		}
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write([]byte("a " + lease))
	_ = w.Close()
	if list, _, err := s.Search(&packed); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, _, err := s.Search(strings.NewReader("")); err != nil || list != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := NewSearcher([]Secret{{Lease, "short"}}); err == nil {
		t.Error("a short secret was accepted")
	}
}
