package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// maxNodeBytes bounds the node id with which an agent introduces itself.
const maxNodeBytes = 128

// identify finds out who is at the other end of a connection past its handshake.
func (s *Security) identify(ctx context.Context, c *tls.Conn) (Identity, error) {
	peer, err := s.Identify(c.ConnectionState())
	if err != nil || s.Node == "" {
		return peer, err
	}
	peer.Node, err = introduce(ctx, c, s.Node)
	return peer, err
}

// introduce tells the own node id and hears the other's: a byte with the length,
// and as many bytes. Each end says it before it listens.
func introduce(ctx context.Context, c *tls.Conn, own string) (node string, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			err = context.Cause(ctx) // what it did to the connection says nothing
		}
		if err != nil {
			err = fmt.Errorf("hearing which node is at the other end: %w", err)
		}
	}()
	if _, err := c.Write(append([]byte{byte(len(own))}, own...)); err != nil {
		return "", err
	}
	var b [1 + 255]byte
	if _, err := io.ReadFull(c, b[:1]); err != nil {
		return "", err
	}
	said := b[1 : 1+int(b[0])]
	if _, err := io.ReadFull(c, said); err != nil {
		return "", err
	}
	if !isNode(string(said)) {
		return "", errors.New("what it says is no node id")
	}
	return string(said), nil
}

// isNode reports whether s can be a node id.
func isNode(s string) bool {
	return s != "" && len(s) <= maxNodeBytes && strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._-") == "" && s[0] != '.' && s[0] != '_' && s[0] != '-'
}
