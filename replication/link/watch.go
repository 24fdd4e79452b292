package link

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Watches.
//
// A watch begins with everything that the session has, and that may be more than one
// frame takes: 100,000 holds with long names. So the list travels in parts, all as of
// one index, and whoever asked for parts makes one event of them again: nobody else
// knows of parts.
//
// Who does not ask for parts is older and would take the first one for everything. A
// list that fits a frame goes there whole. One that does not is told hold by hold, as
// news of each; that something is gone which is not among them, the next renewal finds.

const (
	// partBytes is about how large a part of a list is, encoded.
	partBytes = 1 << 20
	// wholeBytes bounds a list that is sent whole: it fits stream.DefaultMaxFrameBytes.
	wholeBytes = replication.MaxRequestBytes
	// holdFrameBytes is what a hold costs in a list beside itself: its tag and length.
	holdFrameBytes = 1 + 4
)

func (s *Server) watch(ctx context.Context, _ Identity, in *stream.Incoming) (stream.Message, error) {
	if s.o.Voter == nil {
		return nil, errNoVoter
	}
	return nil, s.watching(ctx, in, s.o.Voter.WatchLocal)
}

// watching sends down in what watch tells of the session that is asked for.
func (s *Server) watching(ctx context.Context, in *stream.Incoming, watch func(ctx context.Context, session []byte, fn func(*replication.Event)) error) error {
	if s.o.Voter == nil {
		return errNoVoter
	}
	req := new(WatchRequest)
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return badPayload(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return watch(ctx, req.GetSession(), func(event *replication.Event) {
		if ctx.Err() != nil {
			return // what could not be sent was the last
		}
		if err := sendEvent(in, event, req.GetParts()); err != nil {
			cancel(err)
		}
	})
}

// sendEvent sends an event as one message, or as several if it is a long list.
func sendEvent(in *stream.Incoming, event *replication.Event, parts bool) error {
	switch {
	case event.GetKind() != replication.Event_KIND_LISTED:
		return in.Send(event)
	case parts:
		return sendParts(in, event)
	case event.SizeVT() <= wholeBytes:
		return in.Send(event)
	}
	for _, h := range event.GetHolds() {
		kind := replication.Event_KIND_POSITION
		if h.GetGranted() {
			kind = replication.Event_KIND_GRANTED
		}
		if err := in.Send(&replication.Event{Kind: kind, Hold: h, Index: event.GetIndex()}); err != nil {
			return err
		}
	}
	return nil
}

// sendParts sends a list in parts, the last of which says that it is.
func sendParts(in *stream.Incoming, list *replication.Event) error {
	rest := list.GetHolds()
	for {
		n, size := 0, 0
		for n < len(rest) && size < partBytes {
			size += holdFrameBytes + rest[n].SizeVT()
			n++
		}
		part := &replication.Event{Kind: list.GetKind(), Holds: rest[:n], Index: list.GetIndex(), More: n < len(rest)}
		if err := in.Send(part); err != nil {
			return err
		}
		if rest = rest[n:]; len(rest) == 0 {
			return nil
		}
	}
}

// whole makes one event of the parts of a list.
type whole struct{ list *replication.Event } // nil: between lists

// take returns an event that is complete by now, or nil while parts are to come.
func (w *whole) take(event *replication.Event) (*replication.Event, error) {
	listed := event.GetKind() == replication.Event_KIND_LISTED
	switch {
	case w.list == nil && (!listed || !event.GetMore()):
		return event, nil
	case w.list == nil:
		w.list = event
	case !listed || event.GetIndex() != w.list.GetIndex():
		return nil, fmt.Errorf("%s of index %d comes within a list of index %d", event.GetKind(), event.GetIndex(), w.list.GetIndex())
	default:
		w.list.Holds = append(w.list.Holds, event.GetHolds()...)
	}
	if event.GetMore() {
		return nil, nil
	}
	list := w.list
	w.list, list.More = nil, false
	return list, nil
}

// Watch tells fn what happens to a session, as node, which has to lead, applies
// it, until ctx ends or the watch breaks, and returns why. fn is called from one
// goroutine; while it blocks, events wait at the other side, which ends the
// watch when there are too many.
func (p *Pool) Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error {
	return p.watch(ctx, node, methodWatch, session, fn)
}

func (p *Pool) watch(ctx context.Context, node string, method uint8, session []byte, fn func(*replication.Event)) error {
	c, err := p.voter(ctx, node)
	if err != nil {
		return err
	}
	s, err := c.Open(ctx, method, &WatchRequest{Session: session, Parts: true})
	if err != nil {
		return fromWire(node, err)
	}
	defer s.Close()
	var lists whole
	for {
		payload, err := s.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: node %s has ended the watch", ErrBroken, node)
		}
		if err != nil {
			return fromWire(node, err)
		}
		event := new(replication.Event)
		if err = event.UnmarshalVT(payload); err == nil {
			event, err = lists.take(event)
		}
		if err != nil {
			return fmt.Errorf("reading an event of node %s: %w", node, err)
		}
		if event != nil {
			fn(event)
		}
	}
}
