package link_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/link"
)

// A proxy follows a voter: it is told at once, and again with each change.
func TestFollow(t *testing.T) {
	var book addresses
	type news struct {
		term   uint64
		leader string
	}
	tell, ended := make(chan news), make(chan struct{})
	v := &voter{follow: func(ctx context.Context, fn func(uint64, string)) error {
		defer close(ended)
		for {
			select {
			case n := <-tell:
				fn(n.term, n.leader)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: v})
	p1 := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heard, over := make(chan news), make(chan error, 1)
	go func() {
		over <- p1.pool.Follow(ctx, "v1", func(term uint64, leader string) { heard <- news{term, leader} })
	}()
	for _, n := range []news{{3, "v1"}, {4, ""}, {5, strings.Repeat("v", 128)}} {
		tell <- n
		if got := <-heard; got != n {
			t.Fatalf("heard %v, told %v", got, n)
		}
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("the end of ctx: %v", err)
	}
	<-ended
}

// What no voter says is not believed.
func TestFollowALiar(t *testing.T) {
	var book addresses
	v := &voter{follow: func(ctx context.Context, fn func(uint64, string)) error {
		fn(1, strings.Repeat("v", 129))
		<-ctx.Done()
		return ctx.Err()
	}}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: v})
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	err := v2.pool.Follow(t.Context(), "v1", func(_ uint64, leader string) { t.Errorf("heard %q", leader) })
	if err == nil || !strings.Contains(err.Error(), "129 bytes") {
		t.Errorf("%v", err)
	}
}

// A node that is expected back is not kept waiting for the pause between two dials.
func TestExpectedNodesAreDialledAtOnce(t *testing.T) {
	var book addresses
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: &voter{}})
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	v1.stop()
	address, _ := book.resolve("v1")
	gone := func() bool {
		_, err := v2.pool.Do(t.Context(), "v1", get())
		return isUnsent(err)
	}
	for range 8 { // until the pauses are long
		if !gone() {
			t.Fatal("a dead node answered")
		}
		v2.pool.Expect("v1")
	}
	gone()
	sec := security(t, clusterSecret, "v1")
	l, err := link.Listen(address, link.ListenerOptions{Security: sec})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := link.NewServer(link.ServerOptions{Voter: &voter{}})
	defer server.Close()
	go func() {
		if err := server.Serve(l.Protocol(link.ProtocolLink)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	v2.pool.Expect("v1")
	if gone() {
		t.Error("a node that was expected was not dialled")
	}
	v2.pool.Expect("nobody") // is nothing
}
