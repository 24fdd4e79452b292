package localapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/limiter"
	"github.com/kahu-sh/kahu/replication/stream"
)

// script judges a script: which names it touches is known only when it runs, so
// its caller must be allowed to read and write all of them.
func (a admission) script(s *replication.Script) error {
	if s.GetFuel() != 0 {
		return invalidf("a script's fuel is not for callers to choose")
	}
	for _, p := range s.GetParameters() {
		if err := wire.CheckScriptText("a parameter's name", p.GetName()); err != nil {
			return invalid(err)
		}
		if err := wire.CheckScriptText("a parameter", p.GetValue()); err != nil {
			return invalid(err)
		}
	}
	return first(a.need(policy.Read, ""), a.need(policy.Write, ""))
}

// postScript runs a script. What the script did wrong is a problem; that a
// condition did not hold, or a key does not exist, is an answer.
func (s *Server) postScript(x *exchange) error {
	a := admission{s, x.who}
	if err := first(a.need(policy.Read, ""), a.need(policy.Write, "")); err != nil {
		return err
	}
	var in wire.Script
	if err := s.decodeValues(x, &in); err != nil {
		return err
	}
	req, timeout, err := in.Request()
	if err != nil {
		return err
	}
	_, answer, err := s.do(x.r.Context(), x.who, &replication.Request{Op: &replication.Request_Script{Script: req}}, timeout)
	if err != nil {
		return err
	}
	if e := wire.ErrorOfAnswer(answer); e != nil {
		return e
	}
	out, refused := wire.ScriptResultOf(answer.GetScriptResult())
	if refused != nil {
		return refused
	}
	return x.writeJSON(http.StatusOK, out)
}

// limitKeys is where rate limits are kept, in the table that the caller chose.
const limitKeys = "limits/"

// postLimitTake takes from a rate limit: 200 when granted, 429 when not.
func (s *Server) postLimitTake(x *exchange) error {
	var in wire.LimitTake
	if err := x.decode(&in); err != nil {
		return err
	}
	out, err := s.takeLimit(x.r.Context(), x.name, in)
	if err != nil {
		return err
	}
	return x.writeGrant(out.Granted, out.RetryAfterMS, out)
}

// writeGrant answers a request for permits.
func (x *exchange) writeGrant(granted bool, retryMS int64, out any) error {
	if granted {
		return x.writeJSON(http.StatusOK, out)
	}
	x.w.Header().Set("Retry-After", strconv.FormatInt(max((retryMS+999)/1000, 1), 10))
	return x.writeJSON(http.StatusTooManyRequests, out)
}

// takeLimit carries out a take that the caller is allowed.
func (s *Server) takeLimit(ctx context.Context, name string, in wire.LimitTake) (wire.LimitTaken, error) {
	out := wire.LimitTaken{Limit: name}
	rate, err := limiter.ParseRate(in.Rate)
	if err != nil {
		return out, invalid(err)
	}
	take := limiter.Take{Algorithm: limiter.Algorithm(in.Algorithm), Rate: rate, Permits: 1, Persistent: in.Durability == wire.Persistent}
	if take.Algorithm == "" {
		take.Algorithm = limiter.Bucket
	}
	take.Key = limitKeys + string(take.Algorithm) + "/" + name
	if in.Permits != nil {
		take.Permits = *in.Permits
	}
	text, params, err := take.Script()
	if err != nil {
		return out, invalid(err)
	}
	value, err := s.askLimit(ctx, text, params)
	if err != nil {
		return out, err
	}
	answer, err := limiter.Parse(value)
	if err != nil {
		return out, wire.Refuse(wire.Internal, err.Error())
	}
	out.Granted, out.Left, out.RetryAfterMS = answer.Granted, answer.Left, answer.RetryMS
	return out, nil
}

// askLimit runs the script of a limit that answers with one value.
func (s *Server) askLimit(ctx context.Context, text string, params []limiter.Param) ([]byte, error) {
	result, err := s.runLimit(ctx, text, params)
	if err != nil {
		return nil, err
	}
	if n := len(result.Values); n != 1 {
		return nil, wire.Refuse(wire.Internal, fmt.Sprintf("the script of a limit gave %d values, not one", n))
	}
	return result.Values[0].Value, nil
}

// runLimit runs the script of a limit.
func (s *Server) runLimit(ctx context.Context, text string, params []limiter.Param) (out wire.ScriptResult, err error) {
	op := &replication.Script{Text: []byte(text)}
	for _, p := range params {
		op.Parameters = append(op.Parameters, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
	}
	if s.closing.Load() {
		return out, replication.ErrStopped
	}
	if _, bounded := ctx.Deadline(); !bounded { // the stream has done it (upgraded.timeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.limit(0))
		defer cancel()
	}
	a, err := s.cfg.Coordinator.Do(ctx, &replication.Request{Op: &replication.Request_Script{Script: op}})
	if err != nil {
		return out, err
	}
	if e := wire.ErrorOfAnswer(a); e != nil {
		return out, e
	}
	result, refused := wire.ScriptResultOf(a.GetScriptResult())
	if refused != nil {
		return out, fmt.Errorf("asking a limit: %w", refused)
	}
	return result, nil
}

// limit is takeLimit on the stream.
func (u *upgraded) limit(ctx context.Context, in *stream.Incoming) (op, code string, err error) {
	const name = "limits_take"
	var req wire.LimitRequest
	if err := wire.Decode(bytes.Clone(in.Payload), &req); err != nil {
		return name, "", invalid(err)
	}
	if err := (admission{u.server, u.who}).named(policy.Write, "name", req.Name); err != nil {
		return name, "", err
	}
	out, err := u.server.takeLimit(ctx, req.Name, req.Take)
	if err != nil {
		return name, "", err
	}
	return name, "ok", replyJSON(in, out)
}
