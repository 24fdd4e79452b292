package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// errStopping is the cause of a hold's end when the server closes.
var errStopping = errors.New("the agent is stopping")

// postHold keeps a lock for as long as the connection lives, and tells one event
// a line. The write of the held event that the kernel took counts as its ack: a
// program that does not read its events is stopped by nobody, and promised to.
//
// A hold that was asked for with "resume": true outlives a restart of the agent:
// its connection breaks without a last event, and the program asks again with
// nothing but {"attach": HOLD}, the id of its events, until the agent is back. It
// is told held again, under the same token. Until then the deadline stands that it
// was told last; when that passes it must have stopped. NOT_FOUND says that the
// hold is gone, and so is the lock. An agent whose program does not come back keeps
// the lock for one TTL. While the agent lives, a connection that ends is the end of
// the hold, with resume as without.
func (s *Server) postHold(x *exchange) error {
	var in wire.HoldRequest
	if err := x.decode(&in); err != nil {
		return err
	}
	if in.Witness == WitnessProcess || in.TreeEnds || in.LastEnds || in.NeedAck {
		return invalidf("over HTTP the connection is the witness; the Go client has holds with the witness %s", WitnessProcess)
	}
	if !s.begin() {
		return replication.ErrStopped
	}
	defer s.serving.Done()
	// The request's context ends when the peer closes: net/http reads on while the
	// handler runs.
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	hold, lock, err := s.holdOverHTTP(ctx, x.who, &in)
	if err != nil {
		return err
	}
	defer hold.Disconnect()
	s.metrics.holds.Inc()
	defer s.metrics.holds.Dec()

	x.w.Header().Set("Content-Type", "application/x-ndjson")
	x.w.Header().Set("Kahu-Hold", hold.ID())
	rc := http.NewResponseController(x.w)
	// The head goes out at once: there may be no event for long.
	_ = rc.SetWriteDeadline(time.Now().Add(WriteTimeout))
	x.w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return nil // the caller is gone
	}
	for {
		event, err := hold.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.cfg.Logger.Debug("hold disconnected", "hold", hold.ID(), "lock", lock, "error", err)
			}
			return nil // the status is out already
		}
		if err := x.writeEvent(rc, event); err != nil {
			s.cfg.Logger.Debug("hold disconnected", "hold", hold.ID(), "lock", lock, "error", err)
			return nil
		}
		if event.Type == HoldHeld {
			hold.Ack()
		}
	}
}

func (x *exchange) writeEvent(rc *http.ResponseController, event HoldEvent) error {
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encode the event: %w", err)
	}
	if err := rc.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil {
		return fmt.Errorf("set the deadline of an event: %w", err)
	}
	if _, err := x.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	return rc.Flush()
}

// holdOverHTTP opens a hold, or takes one up again. It returns its lock too.
func (s *Server) holdOverHTTP(ctx context.Context, who *caller.Caller, in *wire.HoldRequest) (hold Hold, lock string, err error) {
	if in.Attach != "" {
		info, err := s.ownedHold(who, in)
		if err != nil {
			return nil, "", err
		}
		if info.Witness != WitnessConnection {
			return nil, "", invalidf("the witness of this hold is its %s: the Go client takes it up again", info.Witness)
		}
		hold, err = s.cfg.Holder.Attach(ctx, in.Attach, nil)
		return hold, info.Lock, err
	}
	req, err := s.holdRequest(who, in)
	if err != nil {
		return nil, "", err
	}
	req.NeedAck = true
	if hold, err = s.cfg.Holder.Open(ctx, req); err != nil {
		return nil, "", holdError(err)
	}
	return hold, req.Lock, nil
}
