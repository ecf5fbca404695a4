package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Of an endpoint, doctor reports the locks that are free with waiters, and still are some seconds later. It waits once for all of them.
func TestDoctorWaitsOnceForStuckLocks(t *testing.T) {
	var listed time.Time
	asked := map[string]int{}
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, _ := wire.At(time.Now().UnixMilli()).MarshalJSON()
		status := func(name string, fence int) string {
			return fmt.Sprintf(`{"lock":%q,"holders":[],"waiting":2,"available":1,"capacity":1,"fence":%d,"server_time":%s}`, name, fence, at)
		}
		if r.URL.Path == "/v1/locks" {
			var list []string
			for i := range 4 {
				list = append(list, status(fmt.Sprint("u", i), 1))
			}
			listed = time.Now()
			_, _ = fmt.Fprintf(w, `{"locks":[%s],"server_time":%s}`, strings.Join(list, ","), at)
			return
		}
		name, fence := strings.TrimPrefix(r.URL.Path, "/v1/locks/"), 1
		if asked[name]++; name == "u2" { // it was granted meanwhile
			fence = 2
		}
		if strings.HasPrefix(name, "u") && time.Since(listed) < stuckFor {
			t.Errorf("%s was read again after %v", name, time.Since(listed))
		}
		_, _ = fmt.Fprint(w, status(name, fence))
	}))
	defer fake.Close()
	t.Setenv("HOLDFAST_TABLE", "")
	code, out, _ := call(t.Context(), "doctor", "--endpoint", fake.URL)
	if code != exitFailed || strings.Count(out, "2 wait, and 1 permits are free") != 3 || strings.Contains(out, "u2") || asked["u0"]+asked["u1"]+asked["u2"]+asked["u3"] != 4 {
		t.Errorf("%d: %v: %s", code, asked, out)
	}
}
