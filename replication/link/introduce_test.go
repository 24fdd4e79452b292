package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// unnamed is a security whose certificates do not name nodes.
func unnamed(t *testing.T, node string) link.Security {
	t.Helper()
	sec := security(t, clusterSecret, "whatever-the-certificate-says")
	identify := sec.Identify
	sec.Identify = func(cs tls.ConnectionState) (link.Identity, error) {
		id, err := identify(cs)
		id.Node = ""
		return id, err
	}
	sec.Node = node
	return sec
}

// Where certificates do not name nodes, nodes name themselves.
func TestNodesIntroduceThemselves(t *testing.T) {
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: unnamed(t, "v1"), HandshakeTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := link.NewServer(link.ServerOptions{Members: members{}, Voter: &voter{}})
	defer server.Close()
	go func() { _ = server.Serve(l.Protocol(link.ProtocolLink)) }() // ends with the server
	var book addresses
	book.set("v1", l.Addr().String())
	book.set("v3", l.Addr().String())
	pool := link.NewPool(link.PoolOptions{Dialer: &link.Dialer{Security: unnamed(t, "v2")}, Resolve: book.resolve})
	defer pool.Close()
	h, id, err := pool.HelloAt(t.Context(), l.Addr().String(), &link.Hello{Self: &link.Peer{Name: "me"}})
	if err != nil || id.Node != "v1" || !id.Voter || h.GetSelf().GetName() != "you are v2, voter true, and say me" {
		t.Fatalf("%v, %+v, %v", h, id, err)
	}
	if _, err := pool.Do(t.Context(), "v1", get()); err != nil {
		t.Error(err)
	}
	if _, err := pool.Do(t.Context(), "v3", get()); !errors.Is(err, link.ErrWrongNode) {
		t.Errorf("another node than the one that was asked for: %v", err)
	}

	// Who says nothing, or nonsense, is not listened to.
	sec := unnamed(t, "")
	for name, said := range map[string]string{"nothing": "", "no id": "\x05a/b c", "an empty id": "\x00", "too long": "\xff" + strings.Repeat("a", 255), "half": "\x20v2"} {
		config := sec.Client.Clone()
		config.NextProtos = []string{link.ProtocolLink}
		c, err := tls.Dial("tcp", l.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, said); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		answer, err := io.ReadAll(c)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() || string(answer) != "\x02v1" {
			t.Errorf("%s is answered with %q, %v", name, answer, err)
		}
		_ = c.Close() // it is closed
	}
	// A server that says nothing ends with the dial's own deadline.
	mute, err := tls.Listen("tcp", "127.0.0.1:0", withProtocols(sec.Server, link.ProtocolGossip))
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() { // ends with mute
		c, err := mute.Accept()
		if err == nil {
			_ = c.(*tls.Conn).Handshake()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	d := link.Dialer{Security: unnamed(t, "v2")}
	if _, err := d.Gossip(ctx, mute.Addr().String()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "which node") {
		t.Errorf("a mute server: %v", err)
	}
}

func withProtocols(c *tls.Config, protocols ...string) *tls.Config {
	c = c.Clone()
	c.NextProtos = protocols
	return c
}
