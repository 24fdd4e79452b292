package hold

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/kahu-sh/kahu/localapi/client/internal/socket"
	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Bounds of the pause between two attempts to take a hold up again. An agent's
// restart takes longer than the first, and is noticed within the last.
const (
	firstResumePause = 20 * time.Millisecond
	lastResumePause  = time.Second
)

// resumption is how a hold is taken up again.
type resumption struct {
	connect func(context.Context) (*stream.Conn, error)
	ttl     time.Duration
}

// takeUpAgain goes on with the hold after its connection broke, when its agent
// was restarted: the id proves who asks. It blocks until the hold has a new
// stream (true), or there is no use in trying. Meanwhile the deadline that was
// told last stands: whoever watches Lost stops in time.
func (h *Hold) takeUpAgain(broke error) bool {
	if h.resume == nil || !resumable(broke) {
		return false
	}
	// By then the session that it hangs from has ended, and a place in line with it.
	late := boottime() + h.resume.ttl
	for pause := firstResumePause; ; pause = min(2*pause, lastResumePause) {
		if h.life.Err() != nil || h.State() == holdwire.HoldLost || boottime() > late {
			return false
		}
		err := h.attach()
		if err == nil {
			return true
		}
		if !errors.Is(err, socket.ErrNoAgent) && !errors.Is(err, socket.ErrUnavailable) {
			return false // it answers, and does not know the hold
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-h.life.Done():
		case <-h.lost: // the deadline
		}
		t.Stop()
	}
}

// resumable reports whether an agent that stopped or was killed can be behind
// the end of a stream.
func resumable(err error) bool {
	var remote *stream.RemoteError
	if errors.As(err, &remote) {
		return holdwire.KindOfNumber(remote.Code) == holdwire.Stopping
	}
	// The end of a stream without a last event is the agent's, unless it was closed here.
	return errors.Is(err, stream.ErrBroken) || errors.Is(err, io.EOF)
}

// attach makes one attempt.
func (h *Hold) attach() error {
	ctx, cancel := context.WithTimeout(h.life, socket.DialTimeout)
	defer cancel()
	conn, err := h.resume.connect(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(holdwire.HoldRequest{Attach: h.id})
	if err != nil {
		return socket.Fail("the hold cannot be encoded: "+err.Error(), socket.ErrInternal, err)
	}
	sent := boottime()
	st, err := conn.Open(h.life, holdwire.MethodHold, stream.Bytes(body))
	if err != nil {
		return errorOfOpen(ctx, err)
	}
	if err := h.greet(ctx, st, sent); err != nil {
		_ = st.Close() // always nil
		if errors.Is(err, io.EOF) {
			return socket.Fail("the agent stops", socket.ErrUnavailable, err)
		}
		return err
	}
	h.sending.Lock()
	defer h.sending.Unlock()
	if h.life.Err() != nil { // closed meanwhile, and Close had the stream before
		_ = st.Close() // always nil
		return socket.ErrClient
	}
	h.stream = st
	close(h.resumed)
	h.resumed = make(chan struct{})
	return nil
}
