package rest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// post sends a JSON body and returns the status and the decoded answer.
func post(t testing.TB, c *http.Client, path string, body io.Reader, header http.Header) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://kahuna"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	if header == nil {
		req.Header = http.Header{"Content-Type": {"application/json"}}
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatalf("%s answers %d %q: %v", path, res.StatusCode, data, err)
	}
	return res.StatusCode, answer
}

// endless is a body without an end, whose length nobody was told.
type endless struct{ sent int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	if e.sent == 0 {
		copy(p, `{"key":"`)
	}
	e.sent += int64(len(p))
	return len(p), nil
}

func TestBodiesBeyondTheLimitAreRefused(t *testing.T) {
	const limit = 1 << 20
	for proto, c := range serve(t, new(scripted), limit) {
		status, _ := post(t, c, "/v1/kv/try-get", strings.NewReader(`{"key":"`+strings.Repeat("a", limit)+`"}`), nil)
		if status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: a body that says it is too large: %d", proto, status)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://kahuna/v1/kv/try-get", new(endless))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil { // the server may close before all is sent
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: a body without an end: %d", proto, res.StatusCode)
		}
	}
}

// Values of a megabyte and more are Kahuna's everyday (ground rule 8).
func TestALargeValueArrivesWhole(t *testing.T) {
	svc := new(scripted)
	var mu sync.Mutex
	var got int
	svc.set(func(_ context.Context, _ string, req, _ proto.Message) error {
		mu.Lock()
		defer mu.Unlock()
		got = len(req.(*pb.GrpcTrySetKeyValueRequest).GetValue())
		return nil
	})
	for proto, c := range serve(t, svc, 0) {
		status, _ := post(t, c, "/v1/kv/try-set", strings.NewReader(`{"key":"k","value":"`+strings.Repeat("AAAA", 1<<20)+`"}`), nil)
		mu.Lock()
		if status != http.StatusOK || got != 3<<20 {
			t.Errorf("%s: status %d, a value of %d bytes arrived, want %d", proto, status, got, 3<<20)
		}
		got = 0
		mu.Unlock()
	}
}

// Of twice as many large bodies as there are turns, half are held at a time, small
// ones pass meanwhile, and all are served.
func TestLargeBodiesTakeTurns(t *testing.T) {
	svc := new(scripted)
	var mu sync.Mutex
	now, most := 0, 0
	arrived, release := make(chan struct{}, 2*rest.MaxLargeBodies), make(chan struct{})
	svc.set(func(ctx context.Context, method string, _, _ proto.Message) error {
		if method != "TrySetKeyValue" {
			return nil
		}
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		arrived <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	})
	body := `{"key":"k","value":"` + strings.Repeat("AAAA", 64<<10) + `"}`
	c := serve(t, svc, 0)["HTTP/1.1"]
	var all sync.WaitGroup
	for range 2 * rest.MaxLargeBodies {
		all.Go(func() {
			if status, answer := post(t, c, "/v1/kv/try-set", strings.NewReader(body), nil); status != http.StatusOK {
				t.Errorf("status %d: %v", status, answer)
			}
		})
	}
	for range rest.MaxLargeBodies {
		<-arrived
	}
	for range 50 {
		if status, answer := post(t, c, "/v1/locks/get-info", strings.NewReader(`{"resource":"r"}`), nil); status != http.StatusOK {
			t.Errorf("a small body behind large ones: %d %v", status, answer)
		}
	}
	close(release)
	all.Wait()
	if most > rest.MaxLargeBodies {
		t.Errorf("%d large bodies at a time, want at most %d", most, rest.MaxLargeBodies)
	}
}

func TestContentTypes(t *testing.T) {
	c := serve(t, new(scripted), 0)["HTTP/1.1"]
	for kind, want := range map[string]int{
		"application/json": 200, "application/json; charset=utf-8": 200, "Application/JSON; charset=UTF-8": 200, "application/vnd.kahuna+json": 200,
		"": 415, "text/plain": 415, "application/json; charset=utf-16": 415, "application/x-www-form-urlencoded": 415, ";": 415,
	} {
		header := http.Header{}
		if kind != "" {
			header.Set("Content-Type", kind)
		}
		if status, answer := post(t, c, "/v1/locks/get-info", strings.NewReader(`{"resource":"r"}`), header); status != want {
			t.Errorf("content type %q: %d %v, want %d", kind, status, answer, want)
		}
	}
	header := http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}
	if status, _ := post(t, c, "/v1/locks/get-info", strings.NewReader(`{}`), header); status != http.StatusUnsupportedMediaType {
		t.Errorf("a compressed body: %d", status)
	}
	if status, _ := post(t, c, "/v1/locks/get-info", http.NoBody, nil); status != http.StatusBadRequest {
		t.Errorf("no body: %d", status)
	}
	if status, _ := post(t, c, "/v1/locks/get-info", strings.NewReader("{\"resource\":\"\xff\"}"), nil); status != http.StatusBadRequest {
		t.Errorf("a body that is not UTF-8: %d", status)
	}
}

// A body of three bytes an item must not become a gigabyte of items.
func TestListsAreBounded(t *testing.T) {
	svc := new(scripted)
	asked := 0
	svc.set(func(context.Context, string, proto.Message, proto.Message) error { asked++; return nil })
	c := serve(t, svc, 0)["HTTP/1.1"]
	const path = "/v1/kv/try-get-many"
	full := `{"items":[` + strings.Repeat("{},", rest.MaxItems-1)
	if status, _ := post(t, c, path, strings.NewReader(full+"{}]}"), nil); status != http.StatusOK || asked != 1 {
		t.Errorf("%d items: %d, asked %d times", rest.MaxItems, status, asked)
	}
	if status, answer := post(t, c, path, strings.NewReader(full+"{},{}]}"), nil); status != http.StatusRequestEntityTooLarge || asked != 1 {
		t.Errorf("one item more: %d %v, asked %d times", status, answer, asked)
	}
	if status, _ := post(t, c, "/v1/kv/try-execute-tx-script", strings.NewReader(`{"script":"","parameters":[`+strings.Repeat("{},", rest.MaxItems)+`{}]}`), nil); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a script with too many parameters: %d", status)
	}
}
