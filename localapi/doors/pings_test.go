package doors_test

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Clients ping as they like, with and without a request under way: those of .NET
// do every 30 seconds on an idle connection, and several times while they measure
// how far away the server is. gRPC's own server would show them out ("too many
// pings"), and with them every request of theirs.
func TestPingsAreWelcome(t *testing.T) {
	s := start(t, everybody)
	p := s.peer(t)
	if err := p.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	const pings = 2000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range uint64(pings) {
			var data [8]byte
			binary.BigEndian.PutUint64(data[:], i)
			if p.WritePing(false, data) != nil {
				return
			}
		}
	}()
	for answered := uint64(0); answered < pings; {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("after %d pings: %v", answered, err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("shown out after %d pings: %v %q", answered, f.ErrCode, f.DebugData())
		case *http2.PingFrame:
			if f.IsAck() {
				if got := binary.BigEndian.Uint64(f.Data[:]); got != answered {
					t.Fatalf("ping %d is answered as %d", answered, got)
				}
				answered++
			}
		}
	}
	<-sent // the last may be answered before its writer has returned
	// The connection serves requests as before.
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields("GET", "/x"), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().StreamID == 1 && f.Header().Flags.Has(http2.FlagDataEndStream) {
			return
		}
	}
}
