package localapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

var update = flag.Bool("update", false, "write testdata/http.txt anew")

// TestHTTPStory plays every route and compares what comes back with
// testdata/http.txt, where the surface can be read.
func TestHTTPStory(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	var story bytes.Buffer
	play := func(method, path, body string, headers ...string) {
		headers = append(headers, "Kahu-Request-Id", "req")
		res, got := ask(t, c, method, path, body, headers...)
		fmt.Fprintf(&story, "%s %s", method, path)
		for i := 0; i < len(headers)-2; i += 2 {
			fmt.Fprintf(&story, "  [%s: %s]", headers[i], headers[i+1])
		}
		if body != "" {
			fmt.Fprintf(&story, "\n  %s", body)
		}
		fmt.Fprintf(&story, "\n= %d", res.StatusCode)
		for _, name := range []string{"Allow", "Etag", "Age", "Kahu-Null", "Kahu-Remaining-Ms", "Content-Type", "Upgrade", "Retry-After"} {
			if v := res.Header.Get(name); v != "" {
				fmt.Fprintf(&story, " %s=%s", name, v)
			}
		}
		fmt.Fprintf(&story, "\n%s", got)
		if !strings.HasSuffix(got, "\n") {
			story.WriteString("\n")
		}
		story.WriteString("\n")
	}

	play("GET", "/kahu/v1/health/live", "")
	play("GET", "/kahu/v1/health/ready", "")
	play("GET", "/kahu/v1/status", "")
	play("GET", "/kahu/v1/stream", "")

	play("PUT", "/kahu/v1/kv/a/b", "hello")
	play("GET", "/kahu/v1/kv/a/b", "")
	play("GET", "/kahu/v1/kv/a%2Fb", "")
	play("HEAD", "/kahu/v1/kv/a/b", "")
	play("GET", "/kahu/v1/kv/a/b", "", "If-None-Match", `"0"`)
	play("PUT", "/kahu/v1/kv/a/b", "x", "If-None-Match", "*")
	play("PUT", "/kahu/v1/kv/a/b", "x", "If-Match", `"7"`)
	play("PUT", "/kahu/v1/kv/a/b?ttl=1h", "world", "If-Match", `"0"`)
	play("PUT", "/kahu/v1/kv/none", "x", "If-Match", "*")
	play("GET", "/kahu/v1/kv/a/b?stale=true", "")
	play("GET", "/kahu/v1/kv/a/b?revision=0", "")
	play("GET", "/kahu/v1/kv/a/b?history", "")
	play("GET", "/kahu/v1/kv/a/b?history&limit=1&keys_only", "")
	play("PUT", "/kahu/v1/kv/empty", "")
	play("GET", "/kahu/v1/kv/empty", "")
	play("PUT", "/kahu/v1/kv/null?null", "")
	play("GET", "/kahu/v1/kv/null", "")
	play("PUT", "/kahu/v1/kv/e?durability=ephemeral", "x", "Kahu-TTL", "30s")
	play("GET", "/kahu/v1/kv/e", "")
	play("POST", "/kahu/v1/kv/a/b/extend?ttl=forever", "")
	play("POST", "/kahu/v1/kv/a/b/extend", "")
	play("GET", "/kahu/v1/kv?limit=2", "")
	play("GET", "/kahu/v1/kv?after=empty&keys_only=true", "")
	play("GET", "/kahu/v1/kv?prefix=zz", "")
	play("DELETE", "/kahu/v1/kv/a/b", "", "If-Match", `"0"`)
	play("DELETE", "/kahu/v1/kv/a/b", "", "If-Match", `"1"`)
	play("DELETE", "/kahu/v1/kv/a/b", "")
	play("GET", "/kahu/v1/kv/a/b", "")
	play("PUT", "/kahu/v1/kv/a/b", "x", "If-Match", `"2"`) // the revision of the tombstone
	play("PUT", "/kahu/v1/kv/a//b/../%25/%20/", "odd")
	play("GET", "/kahu/v1/kv?prefix=a%2F&keys_only", "")
	play("PUT", "/kahu/v1/kv/box/1", "one")
	play("PUT", "/kahu/v1/kv/box/1/lines", "two")
	play("GET", "/kahu/v1/kv?prefix=box&bucket&keys_only", "")
	play("GET", "/kahu/v1/kv/box/1?as_of=1700000000000", "")
	play("GET", "/kahu/v1/kv/box/1?as_of=2023-11-14T22:00:00Z", "")
	play("GET", "/kahu/v1/kv?prefix=box&as_of=2023-11-14T22:00:00Z", "")
	play("GET", "/kahu/v1/kv/box/1?as_of=yesterday", "")
	play("GET", "/kahu/v1/kv/box/1?history&as_of=1700000000000", "")

	play("POST", "/kahu/v1/snapshots", `{"holder":"export","as_of":"1700000000000.0","lease":"10m"}`)
	play("GET", "/kahu/v1/snapshots", "")
	play("POST", "/kahu/v1/snapshots/00000000000000020000018bcfe56800/renew", `{"lease":"20m"}`)
	play("DELETE", "/kahu/v1/snapshots/00000000000000020000018bcfe56800", "")
	play("POST", "/kahu/v1/snapshots/none/renew", `{"lease":"10m"}`)
	play("DELETE", "/kahu/v1/snapshots/none", "")
	play("POST", "/kahu/v1/snapshots", `{"holder":"export","as_of":"now","lease":"10m"}`)
	play("PUT", "/kahu/v1/key-spaces/orders", "")
	play("PUT", "/kahu/v1/key-spaces/orders", "")
	play("PUT", "/kahu/v1/key-spaces/orders/meta", "")
	play("GET", "/kahu/v1/key-spaces?limit=1", "")
	play("DELETE", "/kahu/v1/key-spaces/orders", "")

	play("POST", "/kahu/v1/locks/jobs/7/try", `{"owner":"me","ttl":"30s","reason":"backup"}`)
	play("POST", "/kahu/v1/locks/jobs/7/try", `{"owner":"you","ttl":"30s"}`)
	play("POST", "/kahu/v1/locks/jobs/7/extend", `{"owner":"me","ttl":"1m"}`)
	play("POST", "/kahu/v1/locks/jobs/7/extend", `{"owner":"you","ttl":"1m"}`)
	play("GET", "/kahu/v1/locks/jobs%2F7", "")
	play("GET", "/kahu/v1/locks?prefix=jobs/", "")
	play("POST", "/kahu/v1/locks/jobs/7/unlock", `{"owner":"you"}`)
	play("POST", "/kahu/v1/locks/jobs/7/unlock", `{"owner":"me"}`)
	play("GET", "/kahu/v1/locks/jobs/7", "")
	play("POST", "/kahu/v1/locks/jobs/7/try", `{"owner":"hex:00ff","ttl":"30s"}`, "Content-Type", "application/json")
	play("POST", "/kahu/v1/locks/jobs/7/break", `{"reason":"stuck"}`)

	play("PUT", "/kahu/v1/sequences/inv", `{"maximum":10}`)
	play("PUT", "/kahu/v1/sequences/inv", "")
	play("PATCH", "/kahu/v1/sequences/inv", `{"initial":0,"block_size":5}`)
	play("PATCH", "/kahu/v1/sequences/inv", `{"remove_block_size":true}`)
	play("POST", "/kahu/v1/sequences/inv/next", "", "Idempotency-Key", "k1")
	play("POST", "/kahu/v1/sequences/inv/next", "", "Idempotency-Key", "k1")
	play("POST", "/kahu/v1/sequences/inv/reserve", `{"count":3}`)
	play("POST", "/kahu/v1/sequences/inv/reserve", `{"count":3}`, "Idempotency-Key", "k1")
	play("POST", "/kahu/v1/sequences/inv/reserve", `{"count":30}`)
	play("PATCH", "/kahu/v1/sequences/inv", `{"current":1}`)
	play("PATCH", "/kahu/v1/sequences/inv", `{"current":1,"allow_lower":true}`)
	play("GET", "/kahu/v1/sequences/inv", "")
	play("GET", "/kahu/v1/sequences", "")
	play("DELETE", "/kahu/v1/sequences/inv", "")
	play("POST", "/kahu/v1/sequences/inv/next", "")
	play("GET", "/kahu/v1/holds", "")

	tx := begin(t, c, `{"timeout":"30s"}`)
	play("POST", tx+"/read", `{"keys":[{"key":"stock"}]}`)
	play("POST", tx+"/write", `{"writes":[{"key":"stock","text":"9"},{"key":"order/1","text":"one","if_not_exists":true}]}`, "Idempotency-Key", "w1")
	play("POST", tx+"/read", `{"prefix":"order/"}`)
	play("POST", tx+"/lock", `{"locks":[{"key":"stock"},{"bucket":"order"}]}`)
	play("POST", tx+"/unlock", `{"locks":[{"bucket":"order"}]}`)
	play("GET", "/kahu/v1/transactions", "")
	play("POST", tx+"/commit", "")
	play("POST", tx+"/rollback", "")
	play("POST", tx+"/write", `{"writes":[{"do":"delete","key":"stock"}]}`)

	// What differs from run to run.
	text := regexp.MustCompile(`"(pid|uid|command)":("[^"]*"|\d+)`).ReplaceAllString(story.String(), `"$1":"…"`)
	text = regexp.MustCompile(`(\d+-\d+)-[0-9a-f]{32}`).ReplaceAllString(text, "$1-…")
	path := filepath.Join("testdata", "http.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, wanted := strings.Split(text, "\n\n"), strings.Split(string(want), "\n\n"); text != string(want) {
		for i := range max(len(got), len(wanted)) {
			if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
				t.Fatalf("the story differs from %s (see go test -update):\ngot\n%s\nwant\n%s", path, strings.Join(got[i:min(i+1, len(got))], ""), strings.Join(wanted[i:min(i+1, len(wanted))], ""))
			}
		}
	}
}

// TestBadInput: every one is answered with a problem, and changes nothing.
func TestBadInput(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	a.quorum.mu.Lock()
	before := a.quorum.index
	a.quorum.mu.Unlock()
	long := strings.Repeat("n", 1025)
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		kind                     wire.Kind
		says                     string
		headers                  []string
	}{
		{name: "empty key", method: "PUT", path: "/kahu/v1/kv/", status: 400, kind: wire.Invalid, says: "is empty"},
		{name: "long key", method: "PUT", path: "/kahu/v1/kv/" + long, status: 400, kind: wire.Invalid, says: "1025 bytes"},
		{name: "control character", method: "PUT", path: "/kahu/v1/kv/a%00b", status: 400, kind: wire.Invalid, says: "control character at byte 1"},
		{name: "not UTF-8", method: "GET", path: "/kahu/v1/kv/a%FFb", status: 400, kind: wire.Invalid, says: "UTF-8"},
		{name: "wrong escape in query", method: "GET", path: "/kahu/v1/kv?prefix=%zz", status: 400, kind: wire.Invalid, says: "escaped"},
		{name: "long prefix", method: "GET", path: "/kahu/v1/kv?prefix=" + long, status: 400, kind: wire.Invalid, says: "1025"},
		{name: "unknown parameter", method: "GET", path: "/kahu/v1/kv/a?key=1", status: 400, kind: wire.Invalid, says: "unknown parameter"},
		{name: "parameter twice", method: "GET", path: "/kahu/v1/kv/a?stale&stale", status: 400, kind: wire.Invalid, says: "twice"},
		{name: "odd flag", method: "GET", path: "/kahu/v1/kv/a?stale=yes", status: 400, kind: wire.Invalid, says: "true or false"},
		{name: "negative limit", method: "GET", path: "/kahu/v1/kv?limit=-1", status: 400, kind: wire.Invalid, says: "1 or more"},
		{name: "unknown table", method: "GET", path: "/kahu/v1/kv/a?durability=eternal", status: 400, kind: wire.Invalid, says: "eternal"},
		{name: "zero TTL", method: "PUT", path: "/kahu/v1/kv/a?ttl=0s", status: 400, kind: wire.Invalid, says: "above zero"},
		{name: "negative TTL", method: "PUT", path: "/kahu/v1/kv/a?ttl=-1s", status: 400, kind: wire.Invalid, says: "above zero"},
		{name: "TTL over a day", method: "PUT", path: "/kahu/v1/kv/a?ttl=24h1ms", status: 400, kind: wire.Invalid, says: "above the largest"},
		{name: "TTL without unit", method: "PUT", path: "/kahu/v1/kv/a?ttl=30", status: 400, kind: wire.Invalid, says: "30s"},
		{name: "TTL twice", method: "PUT", path: "/kahu/v1/kv/a?ttl=1s", headers: []string{"Kahu-TTL", "2s"}, status: 400, kind: wire.Invalid, says: "twice"},
		{name: "value over the limit", method: "PUT", path: "/kahu/v1/kv/a", body: strings.Repeat("v", 1<<20+1), status: 413, kind: wire.TooLarge, says: "1048576"},
		{name: "null with a body", method: "PUT", path: "/kahu/v1/kv/a?null", body: "x", status: 400, kind: wire.Invalid, says: "null"},
		{name: "compressed", method: "PUT", path: "/kahu/v1/kv/a", body: "x", headers: []string{"Content-Encoding", "gzip"}, status: 415, kind: wire.MediaType, says: "gzip"},
		{name: "weak etag", method: "PUT", path: "/kahu/v1/kv/a", headers: []string{"If-Match", `W/"1"`}, status: 400, kind: wire.Invalid, says: "If-Match"},
		{name: "list of etags", method: "PUT", path: "/kahu/v1/kv/a", headers: []string{"If-Match", `"1", "2"`}, status: 400, kind: wire.Invalid, says: "If-Match"},
		{name: "both conditions", method: "PUT", path: "/kahu/v1/kv/a", headers: []string{"If-Match", `"1"`, "If-None-Match", "*"}, status: 400, kind: wire.Invalid, says: "both"},

		{name: "no body", method: "POST", path: "/kahu/v1/locks/l/try", status: 400, kind: wire.Invalid, says: "empty"},
		{name: "broken JSON", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":`, status: 400, kind: wire.Invalid, says: "broken"},
		{name: "array", method: "POST", path: "/kahu/v1/locks/l/try", body: `[]`, status: 400, kind: wire.Invalid, says: "object"},
		{name: "unknown field", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"o","ttl":"1s","force":true}`, status: 400, kind: wire.Invalid, says: "force"},
		{name: "field in other case", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"Owner":"o","ttl":"1s"}`, status: 400, kind: wire.Invalid, says: "Owner"},
		{name: "field twice", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"o","owner":"p","ttl":"1s"}`, status: 400, kind: wire.Invalid, says: "twice"},
		{name: "trailing data", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"o","ttl":"1s"}{}`, status: 400, kind: wire.Invalid, says: "behind"},
		{name: "wrong type", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":7,"ttl":"1s"}`, status: 400, kind: wire.Invalid, says: "owner"},
		{name: "empty owner", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"","ttl":"1s"}`, status: 400, kind: wire.Invalid, says: "owner"},
		{name: "long owner", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"` + strings.Repeat("o", 257) + `","ttl":"1s"}`, status: 400, kind: wire.Invalid, says: "257"},
		{name: "no TTL", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"o"}`, status: 400, kind: wire.Invalid, says: "TTL"},
		{name: "lock TTL over a day", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"o","ttl":"25h"}`, status: 400, kind: wire.Invalid, says: "24h"},
		{name: "large JSON", method: "POST", path: "/kahu/v1/locks/l/try", body: `{"owner":"` + strings.Repeat("o", 65<<10) + `"}`, status: 413, kind: wire.TooLarge, says: "65536"},
		{name: "XML", method: "POST", path: "/kahu/v1/locks/l/try", body: "<x/>", headers: []string{"Content-Type", "text/xml"}, status: 415, kind: wire.MediaType, says: "application/json"},
		{name: "empty lock name", method: "POST", path: "/kahu/v1/locks//try", body: `{}`, status: 400, kind: wire.Invalid, says: "is empty"},
		{name: "unknown action", method: "POST", path: "/kahu/v1/locks/l/steal", body: `{}`, status: 405, kind: wire.MethodNotAllowed, says: "POST"},

		{name: "zero count", method: "POST", path: "/kahu/v1/sequences/s/reserve", body: `{"count":0}`, status: 400, kind: wire.Invalid, says: "above zero"},
		{name: "count too large for a number", method: "POST", path: "/kahu/v1/sequences/s/reserve", body: `{"count":9223372036854775808}`, status: 400, kind: wire.Invalid, says: "count"},
		{name: "no whole number", method: "PUT", path: "/kahu/v1/sequences/s", body: `{"initial":1e2}`, status: 400, kind: wire.Invalid,
			says: `the JSON field "initial" must be a whole number of 64 bits, written without a point or an exponent, and is the number 1e2`},
		{name: "JSON that ends too early", method: "PUT", path: "/kahu/v1/sequences/s", body: `{"initial":`, status: 400, kind: wire.Invalid, says: "it ends in the middle"},
		{name: "snapshot of no time", method: "POST", path: "/kahu/v1/snapshots", body: `{"holder":"h","lease":"1m"}`, status: 400, kind: wire.Invalid, says: "as_of"},
		{name: "snapshot in seconds of another era", method: "POST", path: "/kahu/v1/snapshots", body: `{"holder":"h","lease":"1m","as_of":"9223372036854775807"}`, status: 400, kind: wire.Invalid, says: "9999"},
		{name: "revision that is not there", method: "GET", path: "/kahu/v1/kv/a?revision=99", status: 404, kind: wire.NotFound, says: "no revision 99"},
		{name: "zero increment", method: "PUT", path: "/kahu/v1/sequences/s", body: `{"increment":0}`, status: 400, kind: wire.Invalid},
		{name: "long idempotency key", method: "POST", path: "/kahu/v1/sequences/s/next", headers: []string{"Idempotency-Key", strings.Repeat("k", 257)}, status: 400, kind: wire.Invalid, says: "257"},

		{name: "hold without lock", method: "POST", path: "/kahu/v1/holds", body: `{}`, status: 400, kind: wire.Invalid, says: "lock name is empty"},
		{name: "hold with negative TTL", method: "POST", path: "/kahu/v1/holds", body: `{"lock":"l","ttl":"-1s"}`, status: 400, kind: wire.Invalid, says: "TTL"},
		{name: "hold with odd wait", method: "POST", path: "/kahu/v1/holds", body: `{"lock":"l","wait":"-1s"}`, status: 400, kind: wire.Invalid, says: "wait"},
		{name: "process hold over HTTP", method: "POST", path: "/kahu/v1/holds", body: `{"lock":"l","witness":"process"}`, status: 400, kind: wire.Invalid, says: "connection"},
		{name: "odd witness", method: "POST", path: "/kahu/v1/holds", body: `{"lock":"l","witness":"trust"}`, status: 400, kind: wire.Invalid, says: "trust"},

		{name: "no route", method: "GET", path: "/kahu/v2/kv", status: 404, kind: wire.NoRoute, says: "/kahu/v2/kv"},
		{name: "root", method: "GET", path: "/", status: 404, kind: wire.NoRoute},
		{name: "method", method: "POST", path: "/kahu/v1/status", status: 405, kind: wire.MethodNotAllowed, says: "GET, HEAD"},
		{name: "odd method", method: "BREW", path: "/kahu/v1/kv/a", status: 405, kind: wire.MethodNotAllowed, says: "PUT"},
		{name: "stream over plain HTTP", method: "GET", path: "/kahu/v1/stream", status: 426, kind: wire.UpgradeRequired, says: "kahu-stream/1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, body := ask(t, c, tc.method, tc.path, tc.body, tc.headers...)
			var p wire.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("status %d, body %q: %v", res.StatusCode, body, err)
			}
			if res.StatusCode != tc.status || p.Status != tc.status || p.Code != tc.kind || !strings.Contains(p.Detail, tc.says) ||
				res.Header.Get("Content-Type") != wire.ProblemContentType || p.RequestID == "" || p.RequestID != res.Header.Get("Kahu-Request-Id") {
				t.Errorf("got %d %s\nwant %d %s that says %q", res.StatusCode, body, tc.status, tc.kind, tc.says)
			}
			if strings.Contains(p.Detail, "\n") {
				t.Errorf("more than one line: %q", p.Detail)
			}
		})
	}
	a.quorum.mu.Lock()
	defer a.quorum.mu.Unlock()
	if last := a.quorum.index; last > before+1 { // zero increment is judged by the state machine
		t.Errorf("%d log entries were written", last-before)
	}
}

// What a request says in a body is never left unread: each row reads it, or
// refuses it.
func TestBodiesAreRead(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	for _, row := range a.server.Table() {
		if row.Name == "stream" || row.Name == "backup" || row.Name == "kv_put" || // kv_put stores whatever it is
			strings.HasPrefix(row.Name, "cluster_") { // this agent has none
			continue
		}
		path := row.Path + row.Action
		if row.Named {
			path = row.Path + "/n" + row.Action
		}
		if strings.HasPrefix(row.Name, "transactions_") && row.Named {
			path = row.Path + "/" + wire.TxName(&replication.Timestamp{PhysicalMs: 1}, strings.Repeat("0", 32)) + row.Action
		}
		res, body := ask(t, c, row.Method, path, `{"frob":1}`)
		if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "frob") && !strings.Contains(body, "takes no body") {
			t.Errorf("%s %s: %d %s", row.Method, path, res.StatusCode, body)
		}
		if !strings.Contains(body, "takes no body") {
			continue
		}
		for _, nothing := range []string{"", " {} \n"} {
			if _, body := ask(t, c, row.Method, path, nothing); strings.Contains(body, "takes no body") {
				t.Errorf("%s %s with the body %q: %s", row.Method, path, nothing, body)
			}
		}
	}
}

// walk has a request for every row of the route table, on the name "n".
func walk(method, path string) string {
	switch method + " " + path {
	case "POST /kahu/v1/holds":
		return `{"lock":"n"}`
	case "POST /kahu/v1/sequences/n/reserve":
		return `{"count":1}`
	}
	return `{"owner":"o","ttl":"1s"}`
}

// TestAccess walks the table as each kind of caller.
func TestAccess(t *testing.T) {
	stranger := policy.Rule{UIDs: []uint32{4294967294}, Allow: []policy.Verb{policy.Admin}}
	type kind struct {
		name string
		rule policy.Rule
		may  func(verb policy.Verb, onName bool) bool
	}
	kinds := []kind{
		{"stranger", stranger, func(policy.Verb, bool) bool { return false }},
		{"administrator", own(policy.Admin), func(policy.Verb, bool) bool { return true }},
		{"with another prefix", policy.Rule{Everyone: true, Prefixes: []string{"other/"}, Allow: policy.Verbs()},
			func(_ policy.Verb, onName bool) bool { return !onName }},
	}
	for _, verb := range []policy.Verb{policy.Read, policy.Write, policy.Lock, policy.Sequence} {
		kinds = append(kinds, kind{"only " + string(verb), own(verb), func(v policy.Verb, _ bool) bool { return v == verb }})
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			a := startAgent(t, allowing(k.rule))
			a.holder.refuse(wire.Refuse(wire.Busy, "")) // so that no hold streams
			c := a.http(t)
			for _, row := range a.server.Table() {
				name := "/n"
				if row.Prefix {
					name = "?prefix=n"
				}
				if !row.Named && !row.Prefix {
					name = ""
				}
				path := row.Path + name + row.Action
				res, body := ask(t, c, row.Method, path, walk(row.Method, path))
				allowed := row.Access == "public" || k.may(row.Verb, row.Named && row.Access != "somewhere" || row.Prefix || row.Name == "holds_open" || row.Name == "backup" ||
					strings.HasPrefix(row.Name, "cluster_") && row.Verb == policy.Admin)
				if row.Name == "scripts_run" { // it may touch any name, in both ways
					allowed = k.name == "administrator"
				}
				if row.Access == "transacting" { // what is touched comes with each operation
					allowed = k.name != "stranger" && k.name != "only lock" && k.name != "only sequence"
				}
				if row.Name == "stream" { // whoever may do anything may try
					allowed = k.name != "stranger"
				}
				if denied := res.StatusCode == http.StatusForbidden; denied == allowed {
					t.Errorf("%s %s: allowed %v, answer %d %s", row.Method, path, allowed, res.StatusCode, body)
				}
			}
		})
	}
}

// On TCP there is nothing but health and metrics.
func TestTCP(t *testing.T) {
	a := startAgent(t)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, row := range a.server.Table() {
		path := row.Path
		if row.Named {
			path += "/n" + row.Action
		}
		req, err := http.NewRequest(row.Method, "http://"+a.tcp+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		want := http.StatusNotFound
		if row.Access == "public" || row.Name == "metrics" {
			want = http.StatusOK
		}
		if res.StatusCode != want {
			t.Errorf("%s %s: %d, want %d", row.Method, path, res.StatusCode, want)
		}
	}
}

func TestMetricsAndRequestIDs(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	ask(t, c, "PUT", "/kahu/v1/kv/a", "x", "Kahu-Request-Id", "mine-1")
	res, _ := ask(t, c, "GET", "/kahu/v1/kv/none", "", "Kahu-Request-Id", "not\tfit")
	if id := res.Header.Get("Kahu-Request-Id"); id == "" || strings.Contains(id, "\t") {
		t.Errorf("request id %q", id)
	}
	if _, err := a.client(t).Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A call of the stream is counted when its answer is out already.
	body, deadline := "", time.Now().Add(10*time.Second)
	for !strings.Contains(body, `transport="stream"} 1`) && time.Now().Before(deadline) {
		_, body = ask(t, c, "GET", "/metrics", "")
	}
	for _, want := range []string{
		`kahu_localapi_requests_total{code="ok",route="kv_put",transport="http"} 1`,
		`kahu_localapi_requests_total{code="not-found",route="kv_get",transport="http"} 1`,
		`kahu_localapi_requests_total{code="ok",route="status",transport="stream"} 1`,
		`kahu_localapi_request_duration_seconds_count{route="kv_put",transport="http"} 1`,
		`kahu_localapi_connections `,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if log := a.log.String(); !strings.Contains(log, "request=mine-1 route=kv_put name=a code=ok") || !strings.Contains(log, fmt.Sprintf("caller.uid=%d caller.pid=%d", os.Getuid(), os.Getpid())) {
		t.Errorf("the log has no line of the request:\n%s", log)
	}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	tr := c.Transport.(*http.Transport)
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
	res, body := ask(t, c, "PUT", "/kahu/v1/kv/a", "x")
	if res.ProtoMajor != 2 || res.StatusCode != 200 {
		t.Errorf("HTTP/%d, %d, %s", res.ProtoMajor, res.StatusCode, body)
	}
	if res, _ := ask(t, c, "GET", "/kahu/v1/status", ""); res.StatusCode != 200 {
		t.Errorf("the caller is not known over HTTP/2: %d", res.StatusCode)
	}
}
