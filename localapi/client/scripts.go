package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// RunScript runs a script and returns what its last statement came to. That a
// condition did not hold, or a key does not exist, is an answer and not an error.
// ErrScript: it is no script, or failed; ErrConflict: it was aborted, and may be
// run again; ErrUnavailable: there was no room for it. In all three cases nothing
// was changed.
func (c *Client) RunScript(ctx context.Context, s wire.Script) (wire.ScriptResult, error) {
	op, timeout, err := s.Request()
	if err != nil {
		return wire.ScriptResult{}, fail(err.Error(), ErrInvalid)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	a, err := c.Do(ctx, &replication.Request{Op: &replication.Request_Script{Script: op}})
	if err == nil {
		err = Refusal(a)
	}
	if err != nil {
		return wire.ScriptResult{}, fmt.Errorf("running the script: %w", err)
	}
	out, refused := wire.ScriptResultOf(a.GetScriptResult())
	if refused != nil {
		return out, errorOfKind(refused.Kind, refused.Error())
	}
	return out, nil
}

// LimitOptions of LimitTake.
type LimitOptions struct {
	Permits   int64  // 0 only looks whether one would be given
	Algorithm string // bucket (default), window or sliding
	// Persistent keeps the count in the persistent table.
	Persistent bool
}

// LimitTake takes permits from the rate limit of this name; rate is like 100/1m.
// A refusal is an answer and not an error: it says when to try again.
func (c *Client) LimitTake(ctx context.Context, name, rate string, o LimitOptions) (wire.LimitTaken, error) {
	req := wire.LimitRequest{Name: name, Take: wire.LimitTake{Rate: rate, Permits: &o.Permits, Algorithm: o.Algorithm}}
	if o.Persistent {
		req.Take.Durability = wire.Persistent
	}
	b, err := json.Marshal(req)
	if err != nil {
		return wire.LimitTaken{}, fail(fmt.Sprintf("the limit cannot be encoded: %v", err), ErrInvalid)
	}
	payload, err := c.call(ctx, wire.MethodLimit, stream.Bytes(b), false)
	if err != nil {
		return wire.LimitTaken{}, about("limit", name, err)
	}
	var out wire.LimitTaken
	if err := json.Unmarshal(payload, &out); err != nil {
		return out, fail(fmt.Sprintf("the agent's answer cannot be decoded: %v", err), ErrInternal, err)
	}
	return out, nil
}

// LimitWait takes permits, waiting for them until ctx ends.
func (c *Client) LimitWait(ctx context.Context, name, rate string, o LimitOptions) (wire.LimitTaken, error) {
	for {
		out, err := c.LimitTake(ctx, name, rate, o)
		if err != nil || out.Granted {
			return out, err
		}
		if !pause(ctx, max(time.Duration(out.RetryAfterMS)*time.Millisecond, 10*time.Millisecond)) {
			return out, nil
		}
	}
}

// pause waits for d. It says false, at once if it can, when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
