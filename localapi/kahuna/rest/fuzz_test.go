package rest_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// documented are the statuses that a request may have (doc.go; 422 is beyond a
// limit, 503 a cluster that is not ready or a backup that is not configured).
var documented = []int{200, 400, 404, 405, 409, 413, 415, 422, 503}

// FuzzBodies sends any body to any route: an answer, always in JSON, and no panic.
func FuzzBodies(f *testing.F) {
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	routes := rest.Routes()
	seed := new(testing.T)
	for _, file := range files {
		for _, c := range readGolden(seed, file) {
			if i := slices.Index(routes, c.method+" "+c.path); i >= 0 && c.body != "" {
				f.Add(uint8(i), []byte(c.body))
			}
		}
	}
	f.Add(uint8(3), []byte(`{"resource":"\ud800"}`))
	f.Add(uint8(3), []byte(`{"resource":"\\`))
	f.Add(uint8(3), []byte("{\"resource\":\"\xed\xa0\x80\"}"))
	f.Add(uint8(11), []byte(strings.Repeat(`{"key":`, 20000)))
	// One that answers nothing, and one that decides.
	var handlers []http.Handler
	for _, svc := range []rest.Service{new(scripted), realService(f, newQuorum(f))} {
		handlers = append(handlers, rest.New(rest.Config{Service: svc, Logger: slog.New(slog.DiscardHandler), MaxBodyBytes: 1 << 20}))
	}
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		method, path, _ := strings.Cut(routes[int(route)%len(routes)], " ")
		for _, h := range handlers {
			r := httptest.NewRequest(method, path, strings.NewReader(string(body)))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(caller.With(r.Context(), caller.OfNobody("fuzz"))))
			if !slices.Contains(documented, w.Code) {
				t.Errorf("%s %s %q: status %d is not documented: %s", method, path, body, w.Code, w.Body)
			}
			if path != "/" && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s %q: the answer is not JSON: %q", method, path, body, w.Body)
			}
			if !utf8.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s %q: the answer is not UTF-8: %q", method, path, body, w.Body)
			}
			if method == http.MethodPost && w.Code == http.StatusOK && strings.HasPrefix(path, "/v1/kv/try-") && !json.Valid(body) {
				t.Errorf("%s %q was taken for JSON", path, body)
			}
		}
	})
}

// FuzzCursors reads any cursor without a panic.
func FuzzCursors(f *testing.F) {
	for _, c := range []string{"", "AQ", "AQMAAABwL2ICAAAAcC8BAAAAAABo5c-LAQAABwAAAA", "Af____8", "AQAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAA"} {
		f.Add(c)
	}
	h := rest.New(rest.Config{Service: new(scripted), Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, cursor string) {
		body, err := json.Marshal(map[string]any{"prefix": "p", "cursor": cursor})
		if err != nil {
			t.Skip()
		}
		r := httptest.NewRequest(http.MethodPost, "/v1/kv/get-by-range", strings.NewReader(string(body)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Errorf("cursor %q: %d %s", cursor, w.Code, w.Body)
		}
	})
}
