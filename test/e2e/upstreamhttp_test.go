package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// unlikeKahu are the requests of the socket's story that a Kahuna cluster answers in
// another way, by what they begin with, and how: see the package doc of
// replication/upstream. All others have to be answered as by kahu's own cluster.
var unlikeKahu = []struct {
	request *regexp.Regexp
	status  int // 0: the same status with another body
}{
	{regexp.MustCompile(`^GET /kahu/v1/(status|cluster|holds|health)`), 0},
	{regexp.MustCompile(`^\w+ /kahu/v1/cluster`), http.StatusNotFound},
	{regexp.MustCompile(`^GET /metrics`), 0},
	{regexp.MustCompile(`^GET /kahu/v1/backup`), http.StatusForbidden},
	{regexp.MustCompile(`^GET /kahu/v1/(locks|sequences|transactions)(\?|$)`), http.StatusBadRequest},
	{regexp.MustCompile(`^DELETE /kahu/v1/kv/.*\[If-`), http.StatusBadRequest},
	{regexp.MustCompile(`^DELETE /kahu/v1/kv/a/b$`), http.StatusOK}, // since the one before was refused
	{regexp.MustCompile(`^GET /kahu/v1/snapshots`), 0},              // the floor alone
}

// A told is one request of the story.
type told struct {
	method, path, body string
	headers            [][2]string
}

func (q told) String() string {
	text := q.method + " " + q.path
	for _, h := range q.headers {
		text += fmt.Sprintf("  [%s: %s]", h[0], h[1])
	}
	return text
}

// readStory takes the requests out of what package localapi tells of its routes.
func readStory(t *testing.T) (story []told) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "localapi", "testdata", "http.txt"))
	if err != nil {
		t.Fatal(err)
	}
	first := regexp.MustCompile(`^(GET|HEAD|PUT|POST|PATCH|DELETE) (/\S*)((?:  \[[^\]]*\])*)$`)
	header := regexp.MustCompile(`  \[([^:]+): ([^\]]*)\]`)
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		m := first.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		q := told{method: m[1], path: m[2]}
		for _, h := range header.FindAllStringSubmatch(m[3], -1) {
			q.headers = append(q.headers, [2]string{h[1], h[2]})
		}
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			q.body = strings.TrimPrefix(lines[i+1], "  ")
		}
		story = append(story, q)
	}
	return story
}

// play asks an agent, and returns the status, what is stable of the headers, and the
// body without what differs from run to run.
func (q told) play(ctx context.Context, t *testing.T, a *cluster.Agent) (status int, tag string, body any) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, q.method, "http://kahu"+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range q.headers {
		req.Header.Set(h[0], h[1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s on %s: %v", q, a.Name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s on %s: %v", q, a.Name, err)
	}
	body = string(text)
	var object any
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && json.Unmarshal(text, &object) == nil {
		body = stable(object)
	}
	return resp.StatusCode, resp.Header.Get("Etag") + resp.Header.Get("Kahu-Null"), body
}

// passing are members that name an instant, a length of time, or who asked; and
// whether values of a sequence were drawn before, which Kahuna does not tell.
var passing = regexp.MustCompile(`(^|_)(replayed|ms|modified|expires|created|updated|detail|request_id|holder|hold|id|transaction|since)$`)

// stable leaves out what differs from run to run.
func stable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			if passing.MatchString(key) {
				delete(v, key)
				continue
			}
			v[key] = stable(v[key])
		}
	case []any:
		for i := range v {
			v[i] = stable(v[i])
		}
	}
	return v
}

// The socket of an agent in front of a Kahuna cluster answers as that of any other
// agent does, but for what is said of upstream mode.
func TestUpstreamSpeaksTheSameHTTP(t *testing.T) {
	_, front := startUpstream(t, 1, 1)
	own := startCluster(t, cluster.Options{Voters: 1})
	ctx := bounded(t, 2*time.Minute)
	story := readStory(t)
	compared := 0
	for _, q := range story {
		if strings.HasPrefix(q.path, "/kahu/v1/stream") || strings.HasPrefix(q.path, "/v1/") || q.method == "POST" && q.path == "/kahu/v1/holds" {
			continue // its own test; the Kahuna wire, which is spoken by the cluster; a stream of events
		}
		if strings.HasPrefix(q.path, "/kahu/v1/transactions/") && strings.Contains(q.body, `"prefix"`) {
			q.body = strings.Replace(q.body, `"prefix":"order/"`, `"prefix":"order","bucket":true`, 1)
		}
		wantStatus, wantTag, want := q.play(ctx, t, own.Agents[0])
		status, tag, got := q.play(ctx, t, front[0])
		different, same := false, false
		for _, u := range unlikeKahu {
			if u.request.MatchString(q.String()) {
				different, same = true, u.status == 0
				if u.status != 0 {
					wantStatus = u.status
				}
				break
			}
		}
		compared++
		switch {
		case different && (status == wantStatus || same && status == wantStatus):
		case status != wantStatus || !different && (tag != wantTag || !reflect.DeepEqual(got, want)):
			t.Errorf("%s\n  %s\n  upstream: %d %s %v\n  own:      %d %s %v", q, q.body, status, tag, got, wantStatus, wantTag, want)
		}
	}
	if compared < 80 {
		t.Errorf("only %d requests were compared", compared)
	}
	t.Logf("compared %d requests", compared)
}
