package link_test

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/link"
)

// A node that is not cleared yet says nothing to Raft's others, and hears nothing of
// them; once it is, both go on.
func TestRaftStartsAfter(t *testing.T) {
	book := &addresses{}
	a := start(t, book, clusterSecret, "a", link.ServerOptions{})
	b := start(t, book, clusterSecret, "b", link.ServerOptions{})
	open := make(chan struct{})
	held := link.NewRaft("a", a.listener, a.dialer, book.resolve)
	held.StartAfter(open)
	other := link.NewRaft("b", b.listener, b.dialer, book.resolve)
	t.Cleanup(func() {
		held.Close()
		other.Close()
	})
	if c, err := held.Dial(raft.ServerAddress("b"), 50*time.Millisecond); err == nil {
		c.Close()
		t.Fatal("it has reached another before it was let")
	}
	accepted := make(chan error, 1)
	go func() { // ends with the first connection
		c, err := held.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	// The other end is past its handshake, and nobody takes it in.
	c, err := other.Dial(raft.ServerAddress("a"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case err := <-accepted:
		t.Fatalf("it has heard another before it was let: %v", err)
	case <-time.After(50 * time.Millisecond): // enough for a connection that nobody holds back
	}
	close(open)
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	reached := make(chan error, 1)
	go func() { // ends with the first connection
		c, err := other.Accept()
		if err == nil {
			c.Close()
		}
		reached <- err
	}()
	c2, err := held.Dial(raft.ServerAddress("b"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c2.Close()
	if err := <-reached; err != nil {
		t.Fatal(err)
	}
}
