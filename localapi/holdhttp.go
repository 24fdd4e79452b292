package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// errStopping is the cause of a hold's end when the server closes.
var errStopping = errors.New("the agent is stopping")

// postHold keeps a lock for as long as the connection lives, and tells one event
// a line. The write of the held event that the kernel took counts as its ack: a
// program that does not read its events is stopped by nobody, and promised to.
func (s *Server) postHold(x *exchange) error {
	var in wire.HoldRequest
	if err := x.decode(&in); err != nil {
		return err
	}
	if in.Witness == WitnessProcess || in.TreeEnds || in.LastEnds || in.NeedAck || in.Resume || in.Attach != "" {
		return invalidf("over HTTP the connection is the witness; the Go client has holds with the witness %s", WitnessProcess)
	}
	req, err := s.holdRequest(x.who, &in)
	if err != nil {
		return err
	}
	req.NeedAck = true
	if !s.begin() {
		return replication.ErrStopped
	}
	defer s.serving.Done()
	// The request's context ends when the peer closes: net/http reads on while the
	// handler runs.
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	hold, err := s.cfg.Holder.Open(ctx, req)
	if err != nil {
		return holdError(err)
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
				s.cfg.Logger.Debug("hold disconnected", "hold", hold.ID(), "lock", req.Lock, "error", err)
			}
			return nil // the status is out already
		}
		if err := x.writeEvent(rc, event); err != nil {
			s.cfg.Logger.Debug("hold disconnected", "hold", hold.ID(), "lock", req.Lock, "error", err)
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
