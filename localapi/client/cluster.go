package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// ClusterMembers lists the agents that this one knows of.
func (c *Client) ClusterMembers(ctx context.Context) (wire.ClusterMembers, error) {
	var out wire.ClusterMembers
	err := c.http(ctx, http.MethodGet, wire.ClusterPath, nil, &out)
	return out, err
}

// ClusterChange asks for a change of the quorum. It needs an administrator:
// ErrDenied. ErrConflict when it would cost the quorum or makes no sense now;
// ErrNotFound for a node that nobody knows; ErrUnknownOutcome when it may yet
// happen.
func (c *Client) ClusterChange(ctx context.Context, action wire.ClusterAction, node string) (wire.ClusterChanged, error) {
	var out wire.ClusterChanged
	err := c.http(ctx, http.MethodPost, wire.ClusterPath+"/"+string(action), wire.ClusterChange{Node: node}, &out)
	return out, err
}

// Metrics returns what the agent counts, in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.httpText(ctx, http.MethodGet, "/metrics", nil)
}

// http asks a route that the stream does not have, and decodes its answer into out.
func (c *Client) http(ctx context.Context, method, path string, in, out any) error {
	text, err := c.httpText(ctx, method, path, in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fail("the agent's answer cannot be decoded: "+err.Error(), ErrInternal, err)
	}
	return nil
}

// httpText asks a route on a connection of its own. A GET is certainly not carried
// out when it fails, anything else may have been.
func (c *Client) httpText(ctx context.Context, method, path string, in any) ([]byte, error) {
	if c.closed.Load() {
		return nil, errClosed
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fail("the request cannot be encoded: "+err.Error(), ErrInternal, err)
		}
		body = bytes.NewReader(text)
	}
	dialled := false
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.socket)
		dialled = err == nil
		return conn, err
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://kahu"+path, body)
	if err != nil {
		return nil, fail("the request cannot be made: "+err.Error(), ErrInternal, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := transport.RoundTrip(req)
	switch {
	case err == nil:
	case !dialled && ctx.Err() == nil:
		return nil, socket.DialError(c.socket, err)
	case !dialled || method == http.MethodGet:
		return nil, fail("given up before an answer came: "+err.Error(), ErrUnavailable, err, context.Cause(ctx))
	default:
		return nil, fail("no answer came, and it may have been carried out: "+err.Error(), ErrUnknownOutcome, err, context.Cause(ctx))
	}
	defer func() { _ = answer.Body.Close() }() // nothing was written to it
	if answer.StatusCode != http.StatusOK {
		err := refusalOf(answer)
		var known *socket.Failure
		if !errors.As(err, &known) {
			err = fail(fmt.Sprintf("the agent at %s does not do this: %v", c.socket, err), ErrNoAgent, err)
		}
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxClusterBytes))
	if err != nil {
		return nil, fail("the agent's answer cannot be read: "+err.Error(), ErrInternal, err)
	}
	return text, nil
}

// maxClusterBytes is more than the list of ten thousand agents, or all metrics.
const maxClusterBytes = 16 << 20
