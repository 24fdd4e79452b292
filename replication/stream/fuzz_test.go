package stream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/kahu-sh/kahu/replication/stream"
)

// FuzzPeer plays any bytes as a peer against both roles of a connection:
// whatever comes, the connection ends with an error when the bytes do, every
// call is decided, and no goroutine stays.
func FuzzPeer(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(1, 1, methodEcho, 'x'))
	f.Add(join(frame(1, 2, methodChat), frame(1, 3, 0, 1, 2), frame(1, 10, 0, 0, 0, 0, 66), frame(1, 8, 0)))
	f.Add(join(frame(1, 5, 0, 'y'), frame(2, 4, 0, 'z'), frame(2, 9, 0, 0, 0, 0, 0), frame(2, 7, 0)))
	f.Add(join(frame(1, 6, 0, 0, 0, 0, 1, 'e'), frame(0, 11, 0), frame(0, 12, 0)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		c := stream.New(a, stream.Options{MaxFrameBytes: 1 << 12, MaxInFlight: 8, MaxInFlightBytes: 1 << 12, KeepAlive: -1,
			Handler: func(ctx context.Context, in *stream.Incoming) {
				if in.Method == methodWait {
					return
				}
				serve(ctx, in)
			}})
		called := make(chan error, 1)
		go func() {
			_, err := c.Call(context.Background(), methodEcho, nil)
			called <- err
		}()
		b.Write(hello())
		if s, err := c.Open(context.Background(), methodChat, nil); err == nil {
			go func() {
				defer s.Close()
				for {
					if _, err := s.Recv(context.Background()); err != nil {
						return
					}
				}
			}()
		}
		b.Write(data)
		b.Close()
		<-c.Done()
		if err := c.Err(); !errors.Is(err, stream.ErrBroken) {
			t.Fatalf("ended with %v", err)
		}
		var remote *stream.RemoteError
		if err := <-called; err != nil && !errors.Is(err, stream.ErrBroken) && !errors.As(err, &remote) {
			t.Fatalf("a call ended with %v", err)
		}
		c.Close()
	})
}
