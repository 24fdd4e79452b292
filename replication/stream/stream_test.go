package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketpair returns both ends of a connected Unix socket.
func socketpair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			tb.Fatal(err)
		}
	}
	return ends[0], ends[1]
}

// pair returns a caller and the end that serves it.
func pair(tb testing.TB, caller, callee stream.Options) (*stream.Conn, *stream.Conn) {
	tb.Helper()
	a, b := socketpair(tb)
	ca, cb := stream.New(a, caller), stream.New(b, callee)
	tb.Cleanup(func() { ca.Close(); cb.Close() })
	return ca, cb
}

const (
	methodEcho = 1 + iota
	methodFail
	methodWait
	methodSilent
	methodCount
	methodChat
)

// serve is the handler of most tests.
func serve(ctx context.Context, in *stream.Incoming) {
	switch in.Method {
	case methodEcho:
		in.Reply(stream.Bytes(in.Payload))
	case methodFail:
		in.Fail(fmt.Errorf("while failing: %w", &stream.RemoteError{Code: 7, Text: string(in.Payload)}))
	case methodWait:
		<-ctx.Done()
		in.Fail(context.Cause(ctx))
	case methodSilent:
	case methodCount:
		count := 0
		if len(in.Payload) > 0 {
			count = int(in.Payload[0])
		}
		for i := range count {
			if in.Send(stream.Bytes{byte(i)}) != nil {
				return
			}
		}
	case methodChat:
		for {
			p, err := in.Recv(ctx)
			if err != nil {
				in.Fail(err)
				return
			}
			if err := in.Send(stream.Bytes(p)); err != nil {
				return
			}
		}
	}
}

func TestCall(t *testing.T) {
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: serve})
	ctx := t.Context()
	for _, want := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("kahu"), 1<<20)} {
		got, err := caller.Call(ctx, methodEcho, stream.Bytes(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", len(want), len(got), err)
		}
	}
	if got, err := caller.Call(ctx, methodEcho, nil); err != nil || len(got) != 0 {
		t.Fatalf("echo of nothing: %q, %v", got, err)
	}
	var remote *stream.RemoteError
	if _, err := caller.Call(ctx, methodFail, stream.Bytes("no such lock")); !errors.As(err, &remote) || remote.Code != 7 || remote.Text != "no such lock" {
		t.Fatalf("a failing handler gave %v", err)
	}
	if _, err := caller.Call(ctx, methodSilent, nil); !errors.As(err, &remote) || remote.Code != stream.CodeNoAnswer {
		t.Fatalf("a handler without an answer gave %v", err)
	}
}

// Both ends may call, at the same time and with the same ids.
func TestBothEndsCall(t *testing.T) {
	a, b := pair(t, stream.Options{Handler: serve}, stream.Options{Handler: serve})
	var wg sync.WaitGroup
	for i := range 64 {
		for _, c := range []*stream.Conn{a, b} {
			wg.Go(func() {
				want := fmt.Appendf(nil, "%p %d", c, i)
				if got, err := c.Call(t.Context(), methodEcho, stream.Bytes(want)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("echo of %q: %q, %v", want, got, err)
				}
			})
		}
	}
	wg.Wait()
}

func TestNoHandler(t *testing.T) {
	caller, _ := pair(t, stream.Options{}, stream.Options{})
	var remote *stream.RemoteError
	if _, err := caller.Call(t.Context(), methodEcho, nil); !errors.As(err, &remote) || remote.Code != stream.CodeNoHandler {
		t.Fatalf("a call to an end that serves nothing: %v", err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	causes := make(chan error, 1)
	caller, _ := pair(t, stream.Options{}, stream.Options{MaxInFlight: 1, Handler: func(ctx context.Context, in *stream.Incoming) {
		if in.Method == methodWait {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return
		}
		serve(ctx, in)
	}})
	if _, err := caller.Call(t.Context(), methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := caller.Call(ctx, methodWait, nil)
	if !errors.Is(err, why) || errors.Is(err, stream.ErrBroken) {
		t.Fatalf("a call given up ended with %v", err)
	}
	if got := <-causes; !errors.Is(got, context.Canceled) {
		t.Fatalf("the handler's ctx ended because of %v", got)
	}
	// The only place is free again once the last frame of the first call has come.
	if _, err := caller.Call(t.Context(), methodEcho, nil); err != nil {
		t.Fatal(err)
	}
}

// The caller waits for a place, and does not send beyond the peer's limits:
// the peer would end the connection.
func TestCallerKeepsThePeersLimits(t *testing.T) {
	var running, most atomic.Int64
	caller, callee := pair(t, stream.Options{}, stream.Options{MaxInFlight: 3, MaxInFlightBytes: 1000,
		Handler: func(ctx context.Context, in *stream.Incoming) {
			n := running.Add(int64(len(in.Payload)))
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			running.Add(-int64(len(in.Payload)))
			in.Reply(nil)
		}})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			size := 400
			if i%50 == 0 {
				size = 5000 // larger than the limit: goes alone
			}
			if _, err := caller.Call(t.Context(), methodEcho, make(stream.Bytes, size)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := callee.Err(); err != nil {
		t.Fatal(err)
	}
	if n := most.Load(); n > 5000 {
		t.Fatalf("%d bytes were served at a time", n)
	}
}

func TestPlaceIsAwaitedUntilCtxEnds(t *testing.T) {
	entered := make(chan struct{})
	caller, _ := pair(t, stream.Options{}, stream.Options{MaxInFlight: 1, Handler: func(ctx context.Context, in *stream.Incoming) {
		close(entered)
		<-ctx.Done()
	}})
	first, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { caller.Call(first, methodWait, nil) })
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := caller.Call(ctx, methodEcho, nil); !errors.Is(err, stream.ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for a place ended with %v", err)
	}
	giveUp()
	wg.Wait()
}

// Streams may stay open for days: who waits for the place of one is told.
func TestAFullConnectionSaysSo(t *testing.T) {
	var full atomic.Int64
	caller, _ := pair(t, stream.Options{PlaceTimeout: 20 * time.Millisecond}, stream.Options{MaxInFlight: 2, Full: func() { full.Add(1) },
		Handler: func(ctx context.Context, in *stream.Incoming) {
			if !in.Streaming() {
				_ = in.Reply(nil)
				return
			}
			<-ctx.Done()
		}})
	if _, err := caller.Call(t.Context(), methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	var open []*stream.Stream
	for range 2 {
		s, err := caller.Open(t.Context(), methodWait, nil)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	for range 2 {
		_, err := caller.Call(t.Context(), methodEcho, nil)
		if !errors.Is(err, stream.ErrFull) || !errors.Is(err, stream.ErrNotSent) || !strings.Contains(err.Error(), "2 of 2") {
			t.Fatalf("a call on a full connection: %v", err)
		}
	}
	if _, err := caller.Open(t.Context(), methodWait, nil); !errors.Is(err, stream.ErrFull) {
		t.Fatalf("a stream on a full connection: %v", err)
	}
	if n := full.Load(); n != 1 {
		t.Errorf("the other side heard of it %d times", n)
	}
	// A place that becomes free is taken.
	_ = open[0].Close() // always nil
	for {
		_, err := caller.Call(t.Context(), methodEcho, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, stream.ErrFull) {
			t.Fatal(err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	caller, _ := pair(t, stream.Options{MaxFrameBytes: 2000}, stream.Options{MaxFrameBytes: 1000, Handler: func(_ context.Context, in *stream.Incoming) {
		in.Reply(make(stream.Bytes, 10*len(in.Payload)))
	}})
	if _, err := caller.Call(t.Context(), methodEcho, make(stream.Bytes, 991)); !errors.Is(err, stream.ErrTooLarge) || !errors.Is(err, stream.ErrNotSent) {
		t.Fatalf("a request too large: %v", err)
	}
	var remote *stream.RemoteError
	if _, err := caller.Call(t.Context(), methodEcho, make(stream.Bytes, 990)); !errors.As(err, &remote) || remote.Code != stream.CodeTooLarge {
		t.Fatalf("an answer too large: %v", err)
	}
	if p, err := caller.Call(t.Context(), methodEcho, make(stream.Bytes, 99)); err != nil || len(p) != 990 {
		t.Fatalf("the connection did not survive: %v", err)
	}
}

func TestConnectionLost(t *testing.T) {
	for name, cut := range map[string]func(caller, callee *stream.Conn){
		"by the peer": func(_, callee *stream.Conn) { callee.Close() },
		"here":        func(caller, _ *stream.Conn) { caller.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			entered := make(chan struct{})
			caller, callee := pair(t, stream.Options{}, stream.Options{Handler: func(ctx context.Context, in *stream.Incoming) {
				close(entered)
				<-ctx.Done()
			}})
			failed := make(chan error)
			go func() {
				_, err := caller.Call(t.Context(), methodWait, nil)
				failed <- err
			}()
			<-entered
			cut(caller, callee)
			if err := <-failed; !errors.Is(err, stream.ErrBroken) || errors.Is(err, stream.ErrNotSent) {
				t.Fatalf("the call in flight ended with %v", err)
			}
			<-caller.Done()
			if _, err := caller.Call(t.Context(), methodEcho, nil); !errors.Is(err, stream.ErrBroken) || !errors.Is(err, stream.ErrNotSent) {
				t.Fatalf("a later call ended with %v", err)
			}
			if _, err := caller.Open(t.Context(), methodCount, nil); !errors.Is(err, stream.ErrNotSent) {
				t.Fatalf("a later Open ended with %v", err)
			}
		})
	}
}

// An answer that was given before Close reaches the caller.
func TestCloseFlushes(t *testing.T) {
	for range 50 {
		replied := make(chan struct{})
		caller, callee := pair(t, stream.Options{}, stream.Options{Handler: func(_ context.Context, in *stream.Incoming) {
			in.Reply(stream.Bytes("last words"))
			close(replied)
		}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if p, err := caller.Call(t.Context(), methodEcho, nil); err != nil || string(p) != "last words" {
				t.Errorf("%q, %v", p, err)
			}
		})
		<-replied
		callee.Close()
		wg.Wait()
	}
}

func TestStreamDown(t *testing.T) {
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: serve})
	s, err := caller.Open(t.Context(), methodCount, stream.Bytes{200})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 200 {
		p, err := s.Recv(t.Context())
		if err != nil || len(p) != 1 || p[0] != byte(i) {
			t.Fatalf("message %d: %v, %v", i, p, err)
		}
	}
	if _, err := s.Recv(t.Context()); err != io.EOF {
		t.Fatalf("after the last message: %v", err)
	}
	if err := s.Send(nil); !errors.Is(err, io.EOF) {
		t.Fatalf("Send on an ended stream: %v", err)
	}
}

// Messages beyond the window wait for the reader of the stream; other requests
// on the connection do not.
func TestStreamIsFlowControlled(t *testing.T) {
	var sent atomic.Int64
	stuck := make(chan struct{})
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: func(ctx context.Context, in *stream.Incoming) {
		if in.Method != methodCount {
			serve(ctx, in)
			return
		}
		for range 100 {
			if sent.Load()*(10<<10) > stream.WindowBytes-20<<10 {
				select {
				case stuck <- struct{}{}:
				default:
				}
			}
			if in.Send(make(stream.Bytes, 10<<10)) != nil {
				return
			}
			sent.Add(1)
		}
	}})
	s, err := caller.Open(t.Context(), methodCount, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	<-stuck
	if _, err := caller.Call(t.Context(), methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load() * (10 << 10); n > stream.WindowBytes+10<<10 {
		t.Fatalf("%d bytes were sent to a stream that nobody reads", n)
	}
	for i := range 100 {
		if _, err := s.Recv(t.Context()); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func TestStreamBothWays(t *testing.T) {
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: serve})
	rapid.Check(t, func(t *rapid.T) {
		messages := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 200)).Draw(t, "messages")
		large := rapid.IntRange(0, 300<<10).Draw(t, "large")
		messages = append(messages, make([]byte, large), []byte("end"))
		s, err := caller.Open(context.Background(), methodChat, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, m := range messages {
				if err := s.Send(stream.Bytes(m)); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
		})
		for i, want := range messages {
			if got, err := s.Recv(context.Background()); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("message %d: %d bytes of %d, %v", i, len(got), len(want), err)
			}
		}
		wg.Wait()
	})
}

func TestStreamEndsFromTheCallersSide(t *testing.T) {
	ended := make(chan error, 1)
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: func(ctx context.Context, in *stream.Incoming) {
		_, err := in.Recv(context.Background())
		<-ctx.Done()
		ended <- err
	}})
	t.Run("Close", func(t *testing.T) {
		s, err := caller.Open(t.Context(), methodChat, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		s.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("the handler saw %v", err)
		}
		if _, err := s.Recv(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Recv after Close: %v", err)
		}
	})
	t.Run("ctx", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := caller.Open(ctx, methodChat, nil)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("the handler saw %v", err)
		}
		if _, err := s.Recv(t.Context()); !errors.Is(err, context.Canceled) {
			t.Fatalf("Recv after the ctx of Open: %v", err)
		}
		if err := s.Send(nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("Send after the ctx of Open: %v", err)
		}
	})
	t.Run("connection", func(t *testing.T) {
		s, err := caller.Open(t.Context(), methodChat, nil)
		if err != nil {
			t.Fatal(err)
		}
		caller.Close()
		if _, err := s.Recv(t.Context()); !errors.Is(err, stream.ErrBroken) {
			t.Fatalf("Recv after the connection: %v", err)
		}
		if err := <-ended; !errors.Is(err, stream.ErrBroken) {
			t.Fatalf("the handler saw %v", err)
		}
		s.Close()
	})
}

func TestMisuseOfIncoming(t *testing.T) {
	errs := make(chan error, 4)
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: func(ctx context.Context, in *stream.Incoming) {
		if in.Streaming() {
			errs <- in.Reply(nil)
			return
		}
		errs <- in.Send(nil)
		_, err := in.Recv(ctx)
		errs <- err
		in.Reply(nil)
		errs <- in.Reply(nil)
	}})
	if _, err := caller.Call(t.Context(), methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	s, err := caller.Open(t.Context(), methodChat, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 4 {
		if err := <-errs; err == nil {
			t.Error("misuse was not refused")
		}
	}
	if _, err := s.Recv(t.Context()); err != io.EOF {
		t.Fatal(err)
	}
}

// broken is a message that cannot be encoded.
type broken struct{}

func (broken) SizeVT() int                                { return 10 }
func (broken) MarshalToSizedBufferVT([]byte) (int, error) { return 0, errors.New("cannot") }

func TestMessageThatCannotBeEncoded(t *testing.T) {
	caller, _ := pair(t, stream.Options{}, stream.Options{Handler: serve})
	if _, err := caller.Call(t.Context(), methodEcho, broken{}); !errors.Is(err, stream.ErrNotSent) || !strings.Contains(err.Error(), "cannot") {
		t.Fatal(err)
	}
	if p, err := caller.Call(t.Context(), methodEcho, stream.Bytes("x")); err != nil || string(p) != "x" {
		t.Fatalf("the connection did not survive: %q, %v", p, err)
	}
}
