package grpchttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // for the client
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kahu-sh/kahu/localapi/grpchttp"
)

// Messages compressed with gzip are understood, in calls and on streams, and their
// limit holds for what comes out of them.
func TestGzip(t *testing.T) {
	const most = 512 << 10
	s := start(t, &handler{stream: echo, unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil }},
		func(c *grpchttp.Config) { c.MaxMessageBytes = most })
	c := s.dial(t)
	compressed := grpc.UseCompressor("gzip")
	noise := make([]byte, 300_000) // larger than small, and not to be compressed
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, in := range [][]byte{nil, []byte("small"), make([]byte, 64<<10-10), make([]byte, 64<<10+10), noise, make([]byte, most-100)} {
		if out, err := call(t.Context(), c, in, compressed); err != nil || !bytes.Equal(out, in) {
			t.Errorf("%d bytes: %d came back, %v", len(in), len(out), err)
		}
	}
	_, err := call(t.Context(), c, make([]byte, most+1), compressed)
	wantCode(t, err, codes.ResourceExhausted)
	st, err := c.NewStream(t.Context(), &describe().Streams[0], "/Test/Stream", compressed)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "", "two"} {
		send(t, st, text)
		if got, err := receive(st); got != text || err != nil {
			t.Errorf("the stream answers %q with %q, %v", text, got, err)
		}
	}
}

// Whoever compresses otherwise, or wrongly, is told so, and what is understood.
func TestOtherEncodings(t *testing.T) {
	s := start(t, &handler{unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil }}, nil)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	defer tr.CloseIdleConnections()
	message, err := proto.Marshal(wrapperspb.Bytes([]byte("hello")))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	framed := func(flag byte, b []byte) []byte {
		return append([]byte{flag, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
	}
	for _, tc := range []struct {
		encoding string
		body     []byte
		want     string
	}{
		{"gzip", framed(1, packed.Bytes()), "0"},
		{"gzip", framed(0, message), "0"}, // a client may leave single messages as they are
		{"gzip", framed(1, message), "13"},
		{"gzip", framed(1, packed.Bytes()[:packed.Len()-3]), "13"},
		{"gzip", framed(2, packed.Bytes()), "13"},
		{"identity", framed(1, packed.Bytes()), "13"},
		{"deflate", framed(1, packed.Bytes()), "12"},
		{"snappy", framed(0, message), "12"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+"/Test/Unary", bytes.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Grpc-Encoding", tc.encoding)
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body) // trailers come after it
		_ = res.Body.Close()
		got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
		if accepts := res.Header.Get("Grpc-Accept-Encoding"); got != tc.want || tc.encoding != "identity" && accepts != "gzip,identity" {
			t.Errorf("%s % x: status %q and accepts %q, want %q", tc.encoding, tc.body[:5], got, accepts, tc.want)
		}
	}
}

// What is being decompressed takes room for the largest message, and gives it back
// when it comes to nothing: as often as it comes.
func TestGzipGivesRoomBack(t *testing.T) {
	const most = 33 << 20 // of 64 MiB in all
	s := start(t, &handler{unary: func(_ context.Context, in []byte) ([]byte, error) { return in[:1], nil }}, func(c *grpchttp.Config) { c.MaxMessageBytes = most })
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(make([]byte, 200<<10)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	packed.Truncate(packed.Len() - 3)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	defer tr.CloseIdleConnections()
	for range 3 {
		head := binary.BigEndian.AppendUint32([]byte{1}, uint32(packed.Len()))
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+"/Test/Unary", bytes.NewReader(append(head, packed.Bytes()...)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Grpc-Encoding", "gzip")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got, why := res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message"); got != "13" || !strings.Contains(why, "no gzip") {
			t.Fatalf("status %q, %q", got, why)
		}
	}
}

// What package reflection asks is answered: grpcurl and the like find services.
func TestReflection(t *testing.T) {
	s := start(t, &handler{stream: echo}, nil)
	st, err := reflectionpb.NewServerReflectionClient(s.dial(t)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	a, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, one := range a.GetListServicesResponse().GetService() {
		names[one.Name] = true
	}
	if !names["Test"] || !names["grpc.reflection.v1.ServerReflection"] || !names["grpc.reflection.v1alpha.ServerReflection"] {
		t.Errorf("services are %v", names)
	}
	if err := st.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := st.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}
