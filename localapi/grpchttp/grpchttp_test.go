package grpchttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kahu-sh/kahu/localapi/grpchttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Messages of the test's service are BytesValue: a name of what to do, and bytes.
type handler struct {
	unary  func(context.Context, []byte) ([]byte, error)
	stream func(grpc.ServerStream) error
}

func describe() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "Test", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(impl any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			out, err := impl.(*handler).unary(ctx, in.GetValue())
			return wrapperspb.Bytes(out), err
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, ServerStreams: true,
			Handler: func(impl any, s grpc.ServerStream) error { return impl.(*handler).stream(s) }}}}
}

// echo answers each message with itself.
func echo(s grpc.ServerStream) error {
	for {
		m := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

type server struct {
	grpc *grpchttp.Server
	http *http.Server
	addr string
}

func start(tb testing.TB, h *handler, change func(*grpchttp.Config)) *server {
	tb.Helper()
	return startOn(tb, h, change, func(ln net.Listener) net.Listener { return ln })
}

// startOn serves on a listener that wrap has changed.
func startOn(tb testing.TB, h *handler, change func(*grpchttp.Config), wrap func(net.Listener) net.Listener) *server {
	tb.Helper()
	cfg := grpchttp.Config{Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	g := grpchttp.New(cfg)
	g.RegisterService(describe(), h)
	reflection.Register(g)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &server{grpc: g, addr: ln.Addr().String(), http: &http.Server{Protocols: &protocols,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/plain" {
				fmt.Fprint(w, "plain")
				return
			}
			g.ServeHTTP(w, r)
		})}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.http.Serve(wrap(ln))
	}()
	tb.Cleanup(func() {
		s.http.Close()
		<-done
		if err := g.Close(context.WithoutCancel(tb.Context())); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s *server) dial(tb testing.TB) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func call(ctx context.Context, c *grpc.ClientConn, in []byte, opts ...grpc.CallOption) ([]byte, error) {
	out := new(wrapperspb.BytesValue)
	err := c.Invoke(ctx, "/Test/Unary", wrapperspb.Bytes(in), out, opts...)
	return out.GetValue(), err
}

func open(ctx context.Context, tb testing.TB, c *grpc.ClientConn) grpc.ClientStream {
	tb.Helper()
	s, err := c.NewStream(ctx, &describe().Streams[0], "/Test/Stream")
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func send(tb testing.TB, s grpc.ClientStream, text string) {
	tb.Helper()
	if err := s.SendMsg(wrapperspb.Bytes([]byte(text))); err != nil {
		tb.Fatal(err)
	}
}

func receive(s grpc.ClientStream) (string, error) {
	m := new(wrapperspb.BytesValue)
	err := s.RecvMsg(m)
	return string(m.GetValue()), err
}

func wantCode(tb testing.TB, err error, want codes.Code) {
	tb.Helper()
	if got := status.Code(err); got != want {
		tb.Errorf("ended with %v (%v), want %v", got, err, want)
	}
}

func TestUnary(t *testing.T) {
	var logged strings.Builder
	s := start(t, &handler{unary: func(ctx context.Context, in []byte) ([]byte, error) {
		switch string(in) {
		case "details":
			st, err := status.New(codes.FailedPrecondition, "5 % of öl\nspilt").WithDetails(durationpb.New(7))
			if err != nil {
				return nil, err
			}
			return nil, st.Err()
		case "plain error":
			return nil, errors.New("plain")
		case "context":
			<-ctx.Done()
			return nil, ctx.Err()
		case "panic":
			panic("as the test wants")
		case "metadata":
			return in, errors.Join(grpc.SetHeader(ctx, metadata.Pairs("X-Head", "h")), grpc.SetTrailer(ctx, metadata.Pairs("x-tail-bin", "\x00\xff")))
		}
		return append([]byte("<"), in...), nil
	}}, func(c *grpchttp.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		c.MaxMessageBytes = 1 << 20
	})
	c := s.dial(t)

	for _, n := range []int{0, 1, 100, 64 << 10, 300_000, 1<<20 - 100} {
		if out, err := call(t.Context(), c, make([]byte, n)); err != nil || len(out) != n+1 {
			t.Errorf("%d bytes: answered %d, %v", n, len(out), err)
		}
	}
	_, err := call(t.Context(), c, make([]byte, 1<<20+1))
	wantCode(t, err, codes.ResourceExhausted)

	_, err = call(t.Context(), c, []byte("details"))
	wantCode(t, err, codes.FailedPrecondition)
	if st := status.Convert(err); st.Message() != "5 % of öl\nspilt" || len(st.Details()) != 1 || st.Details()[0].(*durationpb.Duration).AsDuration() != 7 {
		t.Errorf("status %q with %v", st.Message(), st.Details())
	}
	_, err = call(t.Context(), c, []byte("plain error"))
	wantCode(t, err, codes.Unknown)
	_, err = call(t.Context(), c, []byte("panic"))
	wantCode(t, err, codes.Internal)
	if !strings.Contains(logged.String(), "as the test wants") {
		t.Errorf("the panic is not in the log: %q", logged.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = call(ctx, c, []byte("context"))
	wantCode(t, err, codes.DeadlineExceeded)

	var head, tail metadata.MD
	if _, err := call(t.Context(), c, []byte("metadata"), grpc.Header(&head), grpc.Trailer(&tail)); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(head["x-head"], tail["x-tail-bin"]); got != "[h] [\x00\xff]" {
		t.Errorf("header and trailer are %q", got)
	}
	wantCode(t, c.Invoke(t.Context(), "/Test/Nothing", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{}), codes.Unimplemented)
}

// Many calls at once on one connection, with REST between them.
func TestOneConnectionForAll(t *testing.T) {
	s := start(t, &handler{unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil }, stream: echo}, nil)
	c := s.dial(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	var dials atomic.Int64
	tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	raw := &http.Client{Transport: tr}
	first, err := raw.Get("http://" + s.addr + "/plain")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, first.Body)
	first.Body.Close()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			want := strings.Repeat("x", i)
			if got, err := call(t.Context(), c, []byte(want)); err != nil || string(got) != want {
				t.Errorf("gRPC: %q, %v", got, err)
			}
			// A gRPC request, a plain one, a gRPC one: on the same connection.
			for _, path := range []string{"/Test/Unary", "/plain", "/Test/Unary"} {
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+path, strings.NewReader("\x00\x00\x00\x00\x00"))
				if err != nil {
					t.Error(err)
					return
				}
				if path != "/plain" {
					req.Header.Set("Content-Type", "application/grpc+proto")
				}
				res, err := raw.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if path == "/plain" {
					if string(body) != "plain" || err != nil {
						t.Errorf("REST beside gRPC: %q, %v", body, err)
					}
				} else if res.Trailer.Get("Grpc-Status") != "0" || res.Header.Get("Grpc-Status") != "" {
					t.Errorf("gRPC beside REST: trailer %v, header %v", res.Trailer, res.Header)
				}
			}
		})
	}
	wg.Wait()
	if n := dials.Load(); n != 1 {
		t.Errorf("the raw client made %d connections, want 1", n)
	}
}

func TestRefusesWhatIsNoGRPC(t *testing.T) {
	s := start(t, &handler{stream: echo}, nil)
	request := func(change func(*http.Request)) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+"/Test/Unary", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		change(req)
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(req.Header.Get("h1") == "")
		protocols.SetHTTP1(req.Header.Get("h1") != "")
		tr := &http.Transport{Protocols: &protocols}
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res
	}
	for name, tc := range map[string]struct {
		change func(*http.Request)
		want   int
		grpc   string // Grpc-Status without a message: in the header
	}{
		"HTTP/1.1":         {func(r *http.Request) { r.Header.Set("h1", "1") }, 505, ""},
		"not gRPC":         {func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc-web") }, 415, ""},
		"GET":              {func(r *http.Request) { r.Method = "GET" }, 405, ""},
		"no message":       {func(*http.Request) {}, 200, "13"},
		"snappy":           {func(r *http.Request) { r.Header.Set("Grpc-Encoding", "snappy") }, 200, "12"},
		"odd timeout":      {func(r *http.Request) { r.Header.Set("Grpc-Timeout", "9x") }, 200, "13"},
		"half a message":   {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("\x00\x00\x00\x00\x09abc")) }, 200, "13"},
		"half a head":      {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("\x00\x00")) }, 200, "13"},
		"compressed":       {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("\x01\x00\x00\x00\x00")) }, 200, "13"}, // and no grpc-encoding (gRPC's compression.md)
		"announces 4 GiB":  {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("\x00\xff\xff\xff\xff")) }, 200, "8"},
		"not protobuf":     {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("\x00\x00\x00\x00\x01\xff")) }, 200, "13"},
		"no time":          {func(r *http.Request) { r.Header.Set("Grpc-Timeout", "0n"); r.URL.Path = "/Test/Stream" }, 200, "4"},
		"method of nobody": {func(r *http.Request) { r.URL.Path = "/Test/Unary/" }, 200, "12"},
	} {
		t.Run(name, func(t *testing.T) {
			res := request(tc.change)
			if res.StatusCode != tc.want || res.Header.Get("Grpc-Status") != tc.grpc {
				t.Errorf("status %d with Grpc-Status %q (%s), want %d with %q", res.StatusCode, res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message"), tc.want, tc.grpc)
			}
		})
	}
}

// Every message comes once and in the order sent, and the end after the last.
func TestStream(t *testing.T) {
	s := start(t, &handler{stream: echo}, nil)
	st := open(t.Context(), t, s.dial(t))
	const n = 5000
	go func() {
		for i := range n {
			if err := st.SendMsg(wrapperspb.Bytes(fmt.Append(nil, i))); err != nil {
				t.Error(err)
				return
			}
		}
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
	}()
	for i := range n {
		if got, err := receive(st); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("answer %d is %q, %v", i, got, err)
		}
	}
	if _, err := receive(st); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

// A stream whose handler is stuck or whose peer is silent ends at its deadline.
func TestStreamDeadline(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, &handler{stream: func(st grpc.ServerStream) error {
		err := echo(st)
		ended <- err
		return err
	}}, nil)
	// Raw, since grpc-go's client would reset the stream by itself.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	defer tr.CloseIdleConnections()
	body, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.addr+"/Test/Stream", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Grpc-Timeout", "30m")
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if got := res.Trailer.Get("Grpc-Status"); got != "4" {
		t.Errorf("ended with %q, want 4, DEADLINE_EXCEEDED", got)
	}
	wantCode(t, <-ended, codes.DeadlineExceeded)
}

// doneObserver hears of calls that have ended.
type doneObserver struct{ done chan codes.Code }

func (doneObserver) Streaming(string, int)                             {}
func (doneObserver) Message(string, bool)                              {}
func (o doneObserver) Done(_ string, code codes.Code, _ time.Duration) { o.done <- code }

// A handler that gives up while its last message is being written to a peer that does
// not read: the call ends all the same, when the peer's time is over.
func TestHandlerThatGivesUp(t *testing.T) {
	o := doneObserver{make(chan codes.Code, 1)}
	s := start(t, &handler{stream: func(st grpc.ServerStream) error {
		if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 1<<20))); err != nil {
			return err
		}
		return status.Error(codes.ResourceExhausted, "the test gives up")
	}}, func(c *grpchttp.Config) { c.WriteTimeout, c.Observer = 50*time.Millisecond, o })
	st := open(t.Context(), t, s.dial(t))
	select {
	case code := <-o.done:
		if code != codes.ResourceExhausted {
			t.Errorf("it ended with %v", code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it has not ended")
	}
	var err error
	for err == nil {
		_, err = receive(st)
	}
	if status.Code(err) == codes.OK {
		t.Error("the stream of the one who did not read ended well")
	}
}

// Who does not read loses the stream, and others on the connection are answered.
func TestPeerThatDoesNotRead(t *testing.T) {
	ended := make(chan error, 1)
	s := start(t, &handler{
		unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil },
		stream: func(st grpc.ServerStream) error {
			for {
				if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 32<<10))); err != nil {
					ended <- err
					return err
				}
			}
		}}, func(c *grpchttp.Config) { c.WriteTimeout = 50 * time.Millisecond })
	c := s.dial(t)
	st := open(t.Context(), t, c)
	if err := <-ended; status.Code(err) != codes.Canceled || !strings.Contains(err.Error(), "did not read") {
		t.Errorf("the handler heard %v", err)
	}
	if got, err := call(t.Context(), c, []byte("still here")); err != nil || string(got) != "still here" {
		t.Errorf("beside it: %q, %v", got, err)
	}
	var err error
	for err == nil {
		_, err = receive(st)
	}
	if status.Code(err) == codes.OK {
		t.Error("the stream of the one who did not read ended well")
	}
}

// Close lets a stream answer what it has, and refuses the rest.
func TestClose(t *testing.T) {
	held, came := make(chan struct{}), make(chan struct{})
	s := start(t, &handler{
		unary: func(context.Context, []byte) ([]byte, error) { return nil, nil },
		stream: func(st grpc.ServerStream) error {
			m := new(wrapperspb.BytesValue)
			if err := st.RecvMsg(m); err != nil {
				return err
			}
			close(came)
			if err := st.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
				t.Errorf("a receive while closing ended with %v", err)
			}
			<-held
			return st.SendMsg(m)
		}}, nil)
	c := s.dial(t)
	st := open(t.Context(), t, c)
	send(t, st, "in flight")
	<-came
	closed := make(chan error, 1)
	go func() { closed <- s.grpc.Close(t.Context()) }()
	for { // until Close has begun
		if _, err := call(t.Context(), c, nil); err != nil {
			wantCode(t, err, codes.Unavailable)
			break
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("closed while a call was under way: %v", err)
	default:
	}
	close(held)
	if got, err := receive(st); err != nil || got != "in flight" {
		t.Errorf("answered %q, %v", got, err)
	}
	_, err := receive(st)
	wantCode(t, err, codes.Unavailable)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Past MaxCalls a call is refused, and taken again when one has ended.
func TestTooManyCalls(t *testing.T) {
	s := start(t, &handler{stream: echo, unary: func(_ context.Context, in []byte) ([]byte, error) { return in, nil }},
		func(c *grpchttp.Config) { c.MaxCalls = 2 })
	c := s.dial(t)
	var streams []grpc.ClientStream
	for range 2 {
		st := open(t.Context(), t, c)
		send(t, st, "x")
		if _, err := receive(st); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	_, err := call(t.Context(), c, nil)
	wantCode(t, err, codes.ResourceExhausted)
	if err := streams[0].CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(streams[0]); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for { // the client hears of the end before the server has forgotten the call
		if _, err = call(t.Context(), c, nil); status.Code(err) != codes.ResourceExhausted {
			break
		}
	}
	wantCode(t, err, codes.OK)
}

func TestCloseGivesUp(t *testing.T) {
	held, came := make(chan struct{}), make(chan struct{})
	s := start(t, &handler{stream: func(grpc.ServerStream) error {
		close(came)
		<-held
		return nil
	}}, nil)
	st := open(t.Context(), t, s.dial(t))
	<-came
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.grpc.Close(ctx); err == nil {
		t.Error("nothing was cut off, and a call is under way")
	}
	close(held)
	_, err := receive(st)
	wantCode(t, err, codes.Unavailable)
}

// What a handler leaves behind must not touch the response of a call that ended.
func TestLeftBehind(t *testing.T) {
	late, read := make(chan grpc.ServerStream, 1), make(chan error, 1)
	s := start(t, &handler{stream: func(st grpc.ServerStream) error {
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			return err
		}
		go func() { read <- st.RecvMsg(new(wrapperspb.BytesValue)) }()
		late <- st
		return nil
	}}, nil)
	st := open(t.Context(), t, s.dial(t))
	send(t, st, "x")
	if _, err := receive(st); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("a receive after the end got a message")
	}
	left := <-late
	wantCode(t, left.SendMsg(wrapperspb.Bytes(nil)), codes.Canceled)
	if err := left.RecvMsg(new(wrapperspb.BytesValue)); err == nil {
		t.Error("a receive after the end got a message")
	}
}
