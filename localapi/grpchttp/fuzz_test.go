package grpchttp_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/grpchttp"
)

// FuzzMessages sends any bytes as the body of a call or a stream, compressed or not:
// there is always an end with a status, and none that says that the agent has a bug.
func FuzzMessages(f *testing.F) {
	s := start(f, &handler{stream: echo, unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil }},
		func(c *grpchttp.Config) { c.MaxMessageBytes = 1 << 20 })
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	f.Cleanup(tr.CloseIdleConnections)
	for _, body := range []string{"", "\x00\x00\x00\x00\x00", "\x01\x00\x00\x00\x00", "\x00\x00\x00\x00\x03\x0a\x01x", "\x00\x00\x10\x00\x01", "\x02\x00\x00\x00\x01x",
		"\x01\x00\x00\x00\x17\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		for _, gzip := range []bool{true, false} {
			f.Add([]byte(body), gzip, true)
			f.Add([]byte(body), gzip, false)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, gzip, stream bool) {
		path := "/Test/Unary"
		if stream {
			path = "/Test/Stream"
		}
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		if gzip {
			req.Header.Set("Grpc-Encoding", "gzip")
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body) // trailers come after it
		_ = res.Body.Close()
		text := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
		why := res.Header.Get("Grpc-Message") + res.Trailer.Get("Grpc-Message")
		if code, err := strconv.Atoi(text); err != nil || code != 0 && code != 8 && code != 13 || strings.Contains(why, "a bug") {
			t.Errorf("% x ended with status %q, %s", body, text, why)
		}
	})
}

// FuzzTimeout: a caller's grpc-timeout is above zero and overflows nothing.
func FuzzTimeout(f *testing.F) {
	for _, s := range []string{"1S", "99999999H", "0n", "1", "S", "-1S", "+1S", "123456789S", "1s", "1 S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := grpchttp.ParseTimeout(s)
		if err == nil && (d <= 0 || d > 365*24*time.Hour) || err != nil && d != 0 {
			t.Errorf("%q is %v (%v)", s, d, err)
		}
	})
}
