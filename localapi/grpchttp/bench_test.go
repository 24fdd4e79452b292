package grpchttp_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// inRounds answers as a quorum does: whatever came while one round was under way
// is answered together.
func inRounds(s grpc.ServerStream) error {
	in := make(chan *wrapperspb.BytesValue, 4096)
	var rounds sync.WaitGroup
	rounds.Go(func() {
		for m := range in {
			time.Sleep(300 * time.Microsecond) // a round of a quorum; not a wait of the benchmark
			_ = s.SendMsg(wrapperspb.Bytes(m.GetValue()[:40]))
			for range len(in) {
				_ = s.SendMsg(wrapperspb.Bytes((<-in).GetValue()[:40]))
			}
		}
	})
	defer rounds.Wait()
	defer close(in)
	for {
		m := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		in <- m
	}
}

// readAhead is a listener whose connections read ahead, as those of an agent do.
func readAhead(ln net.Listener) net.Listener { return aheadListener{ln} }

type aheadListener struct{ net.Listener }

func (l aheadListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return aheadConn{conn, bufio.NewReaderSize(conn, 8<<10)}, nil
}

type aheadConn struct {
	net.Conn
	in *bufio.Reader
}

func (c aheadConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func cpu() time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru) // cannot fail
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkStream is one stream with 256 requests in flight; both ends are in this
// process, and so are their CPU time and allocations. "grpc-go" is its own server.
func BenchmarkStream(b *testing.B) {
	h := &handler{stream: inRounds}
	b.Run("grpchttp", func(b *testing.B) { benchStream(b, start(b, h, nil).dial(b)) })
	b.Run("grpchttp-ahead", func(b *testing.B) { benchStream(b, startOn(b, h, nil, readAhead).dial(b)) })
	b.Run("grpc-go", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		g := grpc.NewServer()
		g.RegisterService(describe(), h)
		go g.Serve(ln)
		b.Cleanup(g.Stop)
		c, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		benchStream(b, c)
	})
}

func benchStream(b *testing.B, c *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	st := open(ctx, b, c)
	send(b, st, string(make([]byte, 200)))
	if _, err := receive(st); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	flight := make(chan struct{}, 256)
	go func() {
		m := wrapperspb.Bytes(make([]byte, 200))
		for range b.N {
			flight <- struct{}{}
			if st.SendMsg(m) != nil {
				return // receive tells why
			}
		}
	}()
	for range b.N {
		if _, err := receive(st); err != nil {
			b.Fatal(err)
		}
		<-flight
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

func BenchmarkUnary(b *testing.B) {
	c := start(b, &handler{unary: func(_ context.Context, in []byte) ([]byte, error) { return in[:40], nil }}, nil).dial(b)
	in := make([]byte, 200)
	b.ReportAllocs()
	b.SetParallelism(32)
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := call(b.Context(), c, in); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}
