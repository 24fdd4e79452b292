package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// handle serves one request of the stream, in a goroutine of its own.
func (u *upgraded) handle(ctx context.Context, in *stream.Incoming) {
	if in.Method == wire.MethodHold {
		u.hold(ctx, in)
		return
	}
	start := time.Now()
	u.calls.Add(1)
	gauge := u.server.metrics.streamFlying
	gauge.Inc()
	defer func() {
		gauge.Dec()
		if u.calls.Add(-1) == 0 && u.server.closing.Load() {
			select {
			case u.idle <- struct{}{}:
			default: // a token is there already
			}
		}
	}()
	op, code, err := u.call(ctx, in)
	var refused *wire.Error
	if err != nil {
		refused = wire.ErrorOf(err)
		code = string(refused.Kind)
		_ = in.Fail(&stream.RemoteError{Code: refused.Kind.Number(), Text: refused.Error()}) // else the connection is lost
	}
	took := time.Since(start)
	u.server.metrics.observe("stream", op, code, took, false)
	if refused == nil && u.server.quiet(ctx) {
		return
	}
	u.server.log(ctx, u.who, refused, err, "route", op, "code", code, "took", took)
}

// call answers one unary request. code is "ok" or a Kind of the answer's code.
func (u *upgraded) call(ctx context.Context, in *stream.Incoming) (op, code string, err error) {
	if in.Streaming() {
		return opUnknown, "", invalidf("method %d is not a stream", in.Method)
	}
	switch in.Method {
	case wire.MethodDo:
		return u.do(ctx, in)
	case wire.MethodStatus:
		if !u.server.cfg.Policy.AllowsSomewhere(u.who, policy.Read) {
			return "status", "", admission{u.server, u.who}.need(policy.Read, "")
		}
		return "status", "ok", replyJSON(in, u.server.cfg.Status())
	case wire.MethodHolds:
		if !u.server.cfg.Policy.AllowsSomewhere(u.who, policy.Read) {
			return "holds_list", "", admission{u.server, u.who}.need(policy.Read, "")
		}
		return "holds_list", "ok", replyJSON(in, u.server.holdsFor(u.who))
	case wire.MethodLimit:
		return u.limit(ctx, in)
	case wire.MethodLease:
		return u.lease(ctx, in)
	}
	return opUnknown, "", invalidf("there is no method %d; is this agent older than its client?", in.Method)
}

func (u *upgraded) do(ctx context.Context, in *stream.Incoming) (op, code string, err error) {
	var d wire.DoRequest
	if err := d.UnmarshalDo(in.Payload); err != nil {
		return opUnknown, "", invalidf("the request cannot be decoded: %v", err)
	}
	op, a, err := u.server.do(ctx, u.who, d.Request, d.Timeout)
	if err != nil {
		return op, "", err
	}
	code = "ok"
	if a.GetCode() != replication.Code_CODE_OK {
		code = string(wire.KindOfCode(a.GetCode()))
	}
	_ = in.Reply(a) // an error means that the connection is lost
	return op, code, nil
}

func replyJSON(in *stream.Incoming, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	_ = in.Reply(stream.Bytes(b)) // an error means that the connection is lost
	return nil
}

// hold serves one hold until its last event, or until its stream ends.
func (u *upgraded) hold(ctx context.Context, in *stream.Incoming) {
	s := u.server
	err := u.runHold(ctx, in)
	var refused *wire.Error
	code := "ok"
	if err != nil {
		refused = holdError(err)
		code = string(refused.Kind)
		_ = in.Fail(&stream.RemoteError{Code: refused.Kind.Number(), Text: refused.Error()}) // else the connection is lost
	}
	s.metrics.observe("stream", "holds_open", code, 0, true)
	s.log(ctx, u.who, refused, err, "route", "holds_open", "code", code)
}

func (u *upgraded) runHold(ctx context.Context, in *stream.Incoming) error {
	s := u.server
	if !in.Streaming() {
		return invalidf("a hold is a stream and not a call")
	}
	var req wire.HoldRequest
	if err := wire.Decode(in.Payload, &req); err != nil {
		return invalid(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	hold, err := s.openHold(ctx, u.conn, &req)
	if err != nil {
		return err
	}
	defer hold.Disconnect()
	s.metrics.holds.Inc()
	defer s.metrics.holds.Dec()
	opened := wire.HoldOpened{Hold: hold.ID(), BootID: s.cfg.BootID, BoottimeNS: s.cfg.Boottime().Nanoseconds()}
	if err := sendJSON(in, opened); err != nil {
		return nil // the connection is lost
	}
	// The listener ends with ctx, or with the stream; it is waited for.
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		u.listen(ctx, in, hold)
	}()
	defer func() {
		cancel(nil)
		<-listening
	}()
	for {
		event, err := hold.Next(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errStopping) || errors.Is(err, replication.ErrStopped) {
				return wire.Refuse(wire.Stopping, errStopping.Error())
			}
			if !errors.Is(err, io.EOF) {
				s.cfg.Logger.Debug("hold disconnected", "hold", hold.ID(), "error", err)
			}
			return nil
		}
		if err := sendJSON(in, event); err != nil {
			return nil // the connection is lost
		}
	}
}

// listen carries out what the client asks of its hold.
func (u *upgraded) listen(ctx context.Context, in *stream.Incoming, hold Hold) {
	for {
		payload, err := in.Recv(ctx)
		if err != nil {
			return
		}
		var message wire.HoldMessage
		if err := wire.Decode(payload, &message); err != nil {
			u.server.cfg.Logger.Debug("a message to a hold was not understood", "hold", hold.ID(), "error", err)
			continue
		}
		switch message.Do {
		case wire.HoldAck:
			hold.Ack()
		case wire.HoldRelease:
			release, cancel := context.WithTimeout(ctx, releaseTimeout)
			if err := hold.Release(release); err != nil {
				u.server.cfg.Logger.Debug("hold not released yet", "hold", hold.ID(), "error", err)
			}
			cancel()
		}
	}
}

func sendJSON(in *stream.Incoming, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	return in.Send(stream.Bytes(b))
}
