package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/test/cluster"
)

// own is an agent of one test, with its client.
type own struct {
	*testing.T
	agent *cluster.Agent
	addr  string // HOST:PORT of its first Kahuna listener
	c     *client
}

// startOwn starts an agent with a configuration file and further flags.
func startOwn(t *testing.T, config string, args ...string) *own {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the agent did not start in a minute"))
	defer cancel()
	file := filepath.Join(t.TempDir(), "kahu.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, cluster.Options{Binary: agents.binary, Voters: 1, Args: append([]string{"--config", file}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the agent's log:\n%s", c.Logs(15))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	s, err := c.Agents[0].Status(ctx)
	if err != nil || s.Kahuna == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	o := &own{T: t, agent: c.Agents[0], addr: s.Kahuna.Listen[0]}
	o.c = &client{transport: &overREST{&http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}},
		urls: []string{"https://" + o.addr}}
	return o
}

func (o *own) dial() *grpc.ClientConn {
	o.Helper()
	conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() { _ = conn.Close() })
	return conn
}

// others are served: a write and a read back, over a connection of their own.
func (o *own) others(what string) {
	o.Helper()
	ctx, cancel := context.WithTimeout(o.Context(), 20*time.Second)
	defer cancel()
	key := random()
	set, err := o.c.setAt(ctx, o.c.url(), tx{}, key, []byte("v"), 1, write{})
	if err == nil && set.success {
		_, err = o.c.getAt(ctx, o.c.url(), tx{}, key, -1, 1)
	}
	if err != nil || !set.success {
		o.Fatalf("%s: others are answered %+v, %v", what, set, err)
	}
}

// residentBytes is the agent's memory.
func (o *own) residentBytes() int64 {
	o.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", o.agent.Pid()))
	if err != nil {
		o.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		o.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestHostileClients: with limits of its configuration, an agent sheds who never
// reads, who opens 10,000 streams and who sends 1 GiB, and serves others meanwhile.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	o := startOwn(t, `
limits: {kahuna-batch-streams: 40, kahuna-in-flight-per-stream: 16, kahuna-message-size: 2MiB, kahuna-unread-size: 4MiB, kahuna-streams-per-connection: 100}
timeouts: {kahuna-unread: 500ms}
`, "--kahuna-listen", "127.0.0.1:0", "--kahuna-insecure")
	t.Run("never reads", o.neverReads)
	t.Run("10,000 streams", o.tenThousandStreams)
	t.Run("too many batch streams", o.tooManyBatchStreams)
	t.Run("1 GiB", o.oneGibibyte)
}

// neverReads asks for large values and does not read them.
func (o *own) neverReads(t *testing.T) {
	conn := o.dial()
	kv := pb.NewKeyValuerClient(conn)
	if a, err := kv.TrySetKeyValue(t.Context(), &pb.GrpcTrySetKeyValueRequest{Key: "big", Value: make([]byte, 1<<20), Flags: 1, Durability: 1}); err != nil || a.Type != 0 {
		t.Fatal(a, err)
	}
	st, err := kv.BatchClientKeyValueRequests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id := int32(1); ; id++ { // until the stream is ended
		err := st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_GET_KEY_VALUE, RequestId: id,
			Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: &pb.GrpcTryGetKeyValueRequest{Key: "big", Revision: -1, Durability: 1}}})
		if err != nil {
			break
		}
		if id%50 == 0 {
			o.others("while somebody does not read")
		}
	}
	for err == nil {
		_, err = st.Recv()
	}
	if code := status.Code(err); code != codes.ResourceExhausted && code != codes.Canceled && code != codes.Internal && code != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	o.others("after it")
}

// tenThousandStreams speaks HTTP/2 by hand, and does not look at the settings.
func (o *own) tenThousandStreams(t *testing.T) {
	conn, err := tls.Dial("tcp", o.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var refusals atomic.Int64
	ended := make(chan struct{})
	go func() { // ends with the connection
		defer close(ended)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.RSTStreamFrame: // past the streams of a connection
				refusals.Add(1)
			case *http2.HeadersFrame: // past the batch streams of the agent: told so, and ended
				if frame.StreamEnded() {
					refusals.Add(1)
				}
			}
		}
	}()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	opened := 0
	for ; opened < 10_000; opened++ {
		head.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "kahu"}, {":path", "/KeyValuer/BatchClientKeyValueRequests"},
			{"content-type", "application/grpc"}, {"te", "trailers"}} {
			if err := encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				t.Fatal(err)
			}
		}
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*opened + 1), EndHeaders: true, BlockFragment: head.Bytes()}) != nil {
			break // it was thrown out
		}
		if opened%2000 == 0 {
			o.others("while somebody opens streams")
		}
	}
	wait(t, "what is too much is refused, or the connection ended", func() bool {
		select {
		case <-ended:
			return true
		default:
			return refusals.Load() >= 10_000-100
		}
	})
	o.others("with its streams open")
}

// tooManyBatchStreams: past the bound a stream is refused by its own status, and what
// is open goes on.
func (o *own) tooManyBatchStreams(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kv := pb.NewKeyValuerClient(o.dial())
	open := 0
	var last error
	for range 60 {
		st, err := kv.BatchClientKeyValueRequests(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_GET_KEY_VALUE, RequestId: 1,
			Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: -1}}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		switch _, err := st.Recv(); status.Code(err) {
		case codes.OK:
			open++
		default:
			last = err
		}
	}
	if open != 40 || status.Code(last) != codes.ResourceExhausted {
		t.Errorf("%d of 60 streams were opened where 40 may be, and the last error is %v", open, last)
	}
	o.others("with as many streams as may be")
}

// endless is a body of so many bytes.
type endless struct {
	left int64
	sent atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := min(int64(len(p)), e.left)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = 'x'
	}
	e.left -= n
	e.sent.Add(n)
	return int(n), nil
}

// oneGibibyte in one message of gRPC, in one body of REST, announced or not.
func (o *own) oneGibibyte(t *testing.T) {
	const size = 1 << 30
	before := o.residentBytes()
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	for _, tc := range []struct {
		name, path, contentType, start string
		length                         int64
	}{
		{"a body of REST, announced", "/v1/kv/try-set", "application/json", `{"key":"k","value":"`, size},
		{"a body of REST, not announced", "/v1/kv/try-set", "application/json", `{"key":"k","value":"`, -1},
		{"a message of gRPC", "/KeyValuer/TrySetKeyValue", "application/grpc", "\x00\x40\x00\x00\x00", -1},
		{"a message on a batch stream", "/KeyValuer/BatchClientKeyValueRequests", "application/grpc", "\x00\x40\x00\x00\x00", -1},
	} {
		body := &endless{left: size - int64(len(tc.start))}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+o.addr+tc.path, io.MultiReader(strings.NewReader(tc.start), body))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = tc.length
		req.Header.Set("Content-Type", tc.contentType)
		res, err := tr.RoundTrip(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body) // trailers come after it
			_ = res.Body.Close()
			grpcStatus := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
			if tc.contentType == "application/json" && res.StatusCode != http.StatusRequestEntityTooLarge || tc.contentType != "application/json" && grpcStatus != "8" {
				t.Errorf("%s: answered %d, gRPC status %q", tc.name, res.StatusCode, grpcStatus)
			}
		}
		if sent := body.sent.Load(); sent > 64<<20 {
			t.Errorf("%s: %d bytes of it were taken (%v)", tc.name, sent, err)
		}
		o.others(tc.name)
	}
	if after := o.residentBytes(); after > before+256<<20 {
		t.Errorf("the agent had %d bytes of memory, and has %d", before, after)
	}
}
