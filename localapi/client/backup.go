package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// Backup writes a backup of the whole cluster to out, on a connection of its own,
// and returns how many bytes it wrote. It blocks until the last of them, or ctx
// ends. After an error out has a part of a backup, which nothing takes for one.
// ErrDenied unless the caller administers, or when the agent is a proxy.
func (c *Client) Backup(ctx context.Context, out io.Writer) (int64, error) {
	if c.closed.Load() {
		return 0, errClosed
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kahu"+wire.BackupPath, nil)
	if err != nil {
		return 0, fail("the request cannot be made: "+err.Error(), ErrInternal, err)
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, fail("given up before the backup began: "+context.Cause(ctx).Error(), ErrUnavailable, context.Cause(ctx))
		}
		return 0, socket.DialError(c.socket, err)
	}
	defer func() { _ = answer.Body.Close() }() // nothing was written to it
	if answer.StatusCode != http.StatusOK {
		err := refusalOf(answer)
		var known *socket.Failure
		if !errors.As(err, &known) {
			err = fail(fmt.Sprintf("the agent at %s gives no backup: %v", c.socket, err), ErrNoAgent, err)
		}
		return 0, err
	}
	n, err := io.Copy(out, answer.Body)
	switch {
	case err == nil:
		return n, nil
	case ctx.Err() != nil:
		return n, fail("given up in the middle of the backup: "+context.Cause(ctx).Error(), ErrUnavailable, context.Cause(ctx))
	}
	return n, fail(fmt.Sprintf("the backup broke off after %d bytes: %v; take it again", n, err), ErrUnavailable, err)
}

// refusalOf turns a problem document into an error.
func refusalOf(answer *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, wire.MaxJSONBytes))
	if err != nil {
		body = nil // cut off: the status has to do
	}
	return socket.Refusal(answer.StatusCode, body)
}
