package stream_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/stream"
)

// hello is a hello with generous limits.
func hello() []byte {
	b := append([]byte(stream.Magic), 1)
	b = binary.BigEndian.AppendUint32(b, 1<<20)
	b = binary.BigEndian.AppendUint32(b, 1<<10)
	return binary.BigEndian.AppendUint64(b, 1<<20)
}

func frame(id uint64, kind, method byte, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(10+len(payload)))
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, kind, method)
	return append(b, payload...)
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Whatever a peer sends against the rules ends its connection with an error
// that says which, and nothing else.
func TestHostilePeer(t *testing.T) {
	const (
		call, open, up, down, answer, fail, end, cancel, creditUp, creditDown, ping = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
	)
	future := hello()
	future[7] = 2
	nothing := hello()
	clear(nothing[8:])
	for name, tc := range map[string]struct {
		sends []byte
		says  string
	}{
		"HTTP":                  {[]byte("GET / HTTP/1.1\r\nHost: kahu\r\n\r\n"), "does not speak kahu's stream"},
		"future version":        {future, "version 2, this side 1"},
		"accepts nothing":       {nothing, "accepts nothing"},
		"frame too large":       {join(hello(), []byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 10)), "4294967295 bytes, 4096 are accepted"},
		"frame too small":       {join(hello(), []byte{0, 0, 0, 9}, make([]byte, 10)), "less than its head"},
		"kind 0":                {join(hello(), frame(1, 0, 0)), "unknown kind of frame 0"},
		"kind 13":               {join(hello(), frame(1, 13, 0)), "unknown kind of frame 13"},
		"method in a cancel":    {join(hello(), frame(1, cancel, 1)), "method 1 in a frame of kind 8"},
		"payload in a cancel":   {join(hello(), frame(1, cancel, 0, 1)), "frame of kind 8 with 1 bytes"},
		"short error":           {join(hello(), frame(1, fail, 0, 1)), "error of 1 bytes"},
		"short credit":          {join(hello(), frame(1, creditUp, 0, 1)), "frame of kind 9 with 1 bytes"},
		"ping with id":          {join(hello(), frame(1, ping, 0)), "ping with id 1"},
		"answer to nothing":     {join(hello(), frame(1, answer, 0)), "request 1, which is not in flight"},
		"error to nothing":      {join(hello(), frame(1, fail, 0, 0, 0, 0, 0)), "request 1, which is not in flight"},
		"end of nothing":        {join(hello(), frame(1, end, 0)), "request 1, which is not in flight"},
		"message to nothing":    {join(hello(), frame(1, down, 0)), "request 1, which is not in flight"},
		"credit to nothing":     {join(hello(), frame(1, creditUp, 0, 0, 0, 0, 1)), "request 1, which is not in flight"},
		"id twice":              {join(hello(), frame(1, call, methodWait), frame(1, call, methodWait)), "request 1 is in flight already"},
		"too many":              {join(hello(), frame(1, call, methodWait), frame(2, call, methodWait), frame(3, call, methodWait)), "more than 2 requests"},
		"too many bytes":        {join(hello(), frame(1, call, methodWait, make([]byte, 60)...), frame(2, call, methodWait, make([]byte, 60)...)), "more than 100 bytes in flight"},
		"message in a call":     {join(hello(), frame(1, call, methodWait), frame(1, up, 0)), "beyond the window"},
		"credit in a call":      {join(hello(), frame(1, call, methodWait), frame(1, creditDown, 0, 0, 0, 0, 1)), "beyond the window"},
		"credit for nothing":    {join(hello(), frame(1, open, methodWait), frame(1, creditDown, 0, 0, 0, 0, 1)), "beyond the window"},
		"ends within the hello": {hello()[:20], "unexpected EOF"},
		"ends within a frame":   {join(hello(), frame(1, call, methodWait, 1, 2, 3)[:15]), "unexpected EOF"},
		"ends within a head":    {join(hello(), frame(1, call, methodWait)[:3]), "unexpected EOF"},
		"goes away":             {hello(), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := socketpair(t)
			defer b.Close()
			c := stream.New(a, stream.Options{Handler: serve, MaxFrameBytes: 4096, MaxInFlight: 2, MaxInFlightBytes: 100})
			defer c.Close()
			if _, err := b.Write(tc.sends); err != nil {
				t.Fatal(err)
			}
			b.(*net.UnixConn).CloseWrite()
			<-c.Done()
			err := c.Err()
			if !errors.Is(err, stream.ErrBroken) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("ended with %q, which does not say %q", err, tc.says)
			}
			if protocol := !strings.Contains(tc.says, "EOF"); errors.Is(err, stream.ErrProtocol) != protocol {
				t.Fatalf("%q is a violation of the protocol: want %v", err, protocol)
			}
		})
	}
}

// A sender that ignores the window is cut off before it fills our memory.
func TestWindowIsEnforced(t *testing.T) {
	a, b := socketpair(t)
	defer b.Close()
	c := stream.New(a, stream.Options{Handler: func(ctx context.Context, _ *stream.Incoming) { <-ctx.Done() }})
	defer c.Close()
	b.Write(join(hello(), frame(1, 2, methodChat)))
	message := frame(1, 3, 0, make([]byte, 32<<10)...)
	for sent := 0; c.Err() == nil; sent += len(message) {
		if sent > 4*stream.WindowBytes {
			t.Fatalf("%d bytes were accepted", sent)
		}
		if _, err := b.Write(message); err != nil {
			<-c.Done()
		}
	}
	if err := c.Err(); !errors.Is(err, stream.ErrProtocol) {
		t.Fatal(err)
	}
}

// What a caller sent before it saw the last frame is no violation.
func TestLateFramesAreIgnored(t *testing.T) {
	a, b := socketpair(t)
	defer b.Close()
	c := stream.New(a, stream.Options{Handler: serve})
	defer c.Close()
	b.Write(join(hello(), frame(9, 3, 0, 1), frame(9, 10, 0, 0, 0, 0, 1), frame(9, 8, 0), frame(10, 1, methodEcho, 'x')))
	want := frame(10, 5, 0, 'x')
	got := make([]byte, 24+len(want))
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err, c.Err())
	}
	if string(got[24:]) != string(want) {
		t.Fatalf("got frame %x, want %x", got[24:], want)
	}
}

// The clock of these tests is synctest's: they wait for no real time.

func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		go io.Copy(io.Discard, b)
		start := time.Now()
		c := stream.New(a, stream.Options{HandshakeTimeout: 3 * time.Second})
		defer c.Close()
		if _, err := c.Call(t.Context(), methodEcho, nil); !errors.Is(err, stream.ErrNotSent) || !errors.Is(err, stream.ErrBroken) {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Fatalf("noticed after %v", took)
		}
	})
}

func TestPeerNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		c := stream.New(a, stream.Options{Handler: serve, WriteTimeout: 3 * time.Second, KeepAlive: -1})
		defer c.Close()
		go b.Write(hello())
		start := time.Now()
		<-c.Done()
		if err := c.Err(); !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "has read nothing for 3s") {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Fatalf("shed after %v", took)
		}
	})
}

// Senders wait while too much is queued, and what is queued has a bound.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		c := stream.New(a, stream.Options{Handler: serve, WriteTimeout: time.Hour, KeepAlive: -1, MaxFrameBytes: 100 << 10})
		defer c.Close()
		generous := hello()
		generous[16] = 1 // no limit but that of the queue
		go b.Write(generous)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		results := make(chan error, 100)
		for range 100 {
			wg.Go(func() {
				_, err := c.Call(ctx, methodEcho, make(stream.Bytes, 60<<10))
				results <- err
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		close(results)
		unsent := 0
		for err := range results {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if errors.Is(err, stream.ErrNotSent) {
				unsent++
			}
		}
		// 18 of them make a MiB: so many wait, and so many the writer may have taken.
		if queued := 100 - unsent; queued < 18 || queued > 36 {
			t.Fatalf("%d messages of 60 KiB were queued", queued)
		}
		// A peer that asks for pongs and never reads is shed before the timeout.
		for c.Err() == nil {
			if _, err := b.Write(frame(0, 11, 0)); err != nil {
				<-c.Done()
			}
		}
		if err := c.Err(); !strings.Contains(err.Error(), "reads none") {
			t.Fatal(err)
		}
	})
}

func TestKeepAlive(t *testing.T) {
	t.Run("an idle peer is pinged and stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			ca := stream.New(a, stream.Options{KeepAlive: 10 * time.Second})
			cb := stream.New(b, stream.Options{KeepAlive: -1, Handler: serve})
			<-time.After(time.Hour)
			if _, err := ca.Call(t.Context(), methodEcho, nil); err != nil {
				t.Fatal(err)
			}
			ca.Close()
			cb.Close()
		})
	})
	t.Run("a silent peer is noticed in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			go io.Copy(io.Discard, b)
			go b.Write(hello())
			start := time.Now()
			c := stream.New(a, stream.Options{KeepAlive: 10 * time.Second})
			defer c.Close()
			<-c.Done()
			if took := time.Since(start); took > 10*time.Second || took < 8*time.Second {
				t.Fatalf("noticed after %v", took)
			}
			if !strings.Contains(c.Err().Error(), "silent for 10s") {
				t.Fatal(c.Err())
			}
		})
	})
	t.Run("a busy peer is not pinged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			c := stream.New(a, stream.Options{KeepAlive: 10 * time.Second, Handler: serve})
			defer c.Close()
			var got []byte
			read := make(chan struct{})
			go func() {
				got, _ = io.ReadAll(b)
				close(read)
			}()
			b.Write(hello())
			for range 100 {
				<-time.After(3 * time.Second)
				b.Write(frame(9, 8, 0)) // a cancellation too late: ignored
			}
			if c.Err() != nil {
				t.Fatal(c.Err())
			}
			c.Close()
			<-read
			if len(got) != 24 {
				t.Fatalf("%d bytes beyond the hello were sent to a busy peer", len(got)-24)
			}
		})
	})
}
