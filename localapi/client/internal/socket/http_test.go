package socket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/holdwire"
)

// net/http is the judge of what is spoken by hand.
func TestPost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in holdwire.Unlock
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		switch {
		case strings.Contains(r.URL.Path, "done"):
			w.WriteHeader(http.StatusNoContent)
		case strings.Contains(r.URL.Path, "refused"):
			w.Header().Set("Content-Type", holdwire.ProblemContentType)
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"code":"not-owner","detail":"of `+in.Owner+`"}`)
		default:
			panic(http.ErrAbortHandler)
		}
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }() // ends with Close
	defer func() { _ = server.Close(); <-served }()

	post := func(lock string) error {
		return Post(context.Background(), path, holdwire.UnlockPath(lock), holdwire.Unlock{Owner: "me"})
	}
	if err := post("done"); err != nil {
		t.Error(err)
	}
	if err := post("refused"); !errors.Is(err, ErrNotOwner) || err.Error() != "of me" {
		t.Errorf("refused: %v", err)
	}
	if err := post("broken off"); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("broken off: %v", err)
	}
	if err := Post(context.Background(), path+"none", "/", nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("nobody there: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Post(ended, path, holdwire.UnlockPath("done"), nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: kahu-stream/1\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.1 409 Conflict\r\nContent-Length: 20\r\n\r\n{\"code\":\"not-owner\"}"))
	f.Add([]byte("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := bufio.NewReader(bytes.NewReader(text))
		a, err := readAnswer(in)
		if err != nil {
			return
		}
		body := a.body(in)
		if len(body) > holdwire.MaxJSONBytes || a.length >= 0 && int64(len(body)) > a.length || a.pieces && body != nil {
			t.Errorf("%q: %+v with %d bytes", text, a, len(body))
		}
		if a.status != noContent && Refusal(a.status, body) == nil {
			t.Errorf("%q refuses nothing", text)
		}
	})
}
