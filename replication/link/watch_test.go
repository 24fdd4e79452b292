package link_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/stream"
)

const listIndex = 4711

// longList is the list of a session, of about 4 KiB for each hold.
func longList(holds int) *replication.Event {
	list := &replication.Event{Kind: replication.Event_KIND_LISTED, Index: listIndex}
	for i := range holds {
		h := &replication.SessionHold{Owner: fmt.Appendf(nil, "%032x", i), Name: fmt.Sprintf("%s%06d", strings.Repeat("n", 4096), i)}
		if h.Granted = i%3 != 0; h.Granted {
			h.Token = int64(i)
		} else {
			h.Position = uint32(i + 1)
		}
		list.Holds = append(list.Holds, h)
	}
	return list
}

// tooLong has more holds than a frame takes.
func tooLong(t *testing.T) *replication.Event {
	list := longList(stream.DefaultMaxFrameBytes/4096 + 1000)
	if list.SizeVT() <= stream.DefaultMaxFrameBytes {
		t.Fatalf("a list of %d bytes shows nothing", list.SizeVT())
	}
	return list
}

// lists is a voter whose watches begin with a list; one grant follows.
func lists(list *replication.Event) *voter {
	return &voter{watch: func(ctx context.Context, _ []byte, fn func(*replication.Event)) error {
		fn(list)
		fn(&replication.Event{Kind: replication.Event_KIND_GRANTED, Index: listIndex + 1})
		<-ctx.Done()
		return context.Cause(ctx)
	}}
}

// wantList looks for what a watch of lists(want) tells: the list as one event, and the grant.
func wantList(t *testing.T, want *replication.Event, watch func(ctx context.Context, fn func(*replication.Event)) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var events []*replication.Event
	err := watch(ctx, func(e *replication.Event) {
		if events = append(events, e); len(events) == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || len(events) != 2 {
		t.Fatalf("%d events came, and the watch ended with %v", len(events), err)
	}
	got := events[0]
	if got.GetKind() != replication.Event_KIND_LISTED || got.GetMore() || got.GetIndex() != listIndex || len(got.GetHolds()) != len(want.GetHolds()) {
		t.Fatalf("the first event is %s as of %d with %d holds, more %v; want %d holds", got.GetKind(), got.GetIndex(), len(got.GetHolds()), got.GetMore(), len(want.GetHolds()))
	}
	for i, h := range got.GetHolds() {
		if h.String() != want.GetHolds()[i].String() {
			t.Fatalf("hold %d is %v, want %v", i, h, want.GetHolds()[i])
		}
	}
	if e := events[1]; e.GetKind() != replication.Event_KIND_GRANTED || e.GetIndex() != listIndex+1 {
		t.Errorf("then %v", e)
	}
}

// A session has 100,000 holds at most, and their names fill more than one frame: the
// watch of it broke each time, for as long as they were held.
func TestListLargerThanAFrame(t *testing.T) {
	for name, list := range map[string]*replication.Event{"empty": longList(0), "one part": longList(3), "two parts": longList(300), "larger than a frame": tooLong(t)} {
		t.Run(name, func(t *testing.T) {
			var book addresses
			start(t, &book, clusterSecret, "leader", link.ServerOptions{Voter: lists(list)})
			var none voter
			none.watch = func(context.Context, []byte, func(*replication.Event)) error {
				return &replication.NotLeaderError{Leader: "leader"}
			}
			startRelay(t, &book, "follower", &none)
			proxy := start(t, &book, clusterSecret.Proxy(), "proxy", link.ServerOptions{})
			wantList(t, list, func(ctx context.Context, fn func(*replication.Event)) error {
				return proxy.pool.Watch(ctx, "leader", []byte("s"), fn)
			})
			wantList(t, list, func(ctx context.Context, fn func(*replication.Event)) error {
				return proxy.pool.WatchVia(ctx, "follower", []byte("s"), fn)
			})
		})
	}
}

// An agent that does not know of parts gets a list as ever where it fits, and is told of
// each hold where it does not. It never gets a part, which it would take for everything.
func TestListForAnOlderAgent(t *testing.T) {
	for name, list := range map[string]*replication.Event{"two parts": longList(300), "larger than a frame": tooLong(t)} {
		t.Run(name, func(t *testing.T) {
			var book addresses
			start(t, &book, clusterSecret, "leader", link.ServerOptions{Voter: lists(list)})
			old := start(t, &book, clusterSecret.Proxy(), "old", link.ServerOptions{})
			address, _ := book.resolve("leader")
			conn, err := old.dialer.DialLink(t.Context(), address, "leader")
			if err != nil {
				t.Fatal(err)
			}
			c := stream.New(conn, stream.Options{})
			defer c.Close()
			s, err := c.Open(t.Context(), link.MethodWatch, &link.WatchRequest{Session: []byte("s")})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			next := func() *replication.Event {
				payload, err := s.Recv(t.Context())
				event := new(replication.Event)
				if err == nil {
					err = event.UnmarshalVT(payload)
				}
				if err != nil {
					t.Fatal(err)
				}
				return event
			}
			if len(list.GetHolds()) == 300 {
				if e := next(); e.GetKind() != replication.Event_KIND_LISTED || e.GetMore() || len(e.GetHolds()) != 300 {
					t.Fatalf("the first event is %s with %d holds, more %v", e.GetKind(), len(e.GetHolds()), e.GetMore())
				}
			} else {
				for i, h := range list.GetHolds() {
					kind := replication.Event_KIND_POSITION
					if h.GetGranted() {
						kind = replication.Event_KIND_GRANTED
					}
					if e := next(); e.GetKind() != kind || e.GetIndex() != listIndex || e.GetHold().String() != h.String() {
						t.Fatalf("hold %d is told as %s as of %d, want %s", i, e.GetKind(), e.GetIndex(), kind)
					}
				}
			}
			if e := next(); e.GetKind() != replication.Event_KIND_GRANTED || e.GetIndex() != listIndex+1 {
				t.Errorf("then %v", e)
			}
		})
	}
}

// An older voter sends its list whole, and parts that do not belong together are an
// error and no list: what is missing in one counts as gone.
func TestListOfAnotherVoter(t *testing.T) {
	part := func(index uint64, more bool) *replication.Event {
		e := longList(2)
		e.Index, e.More = index, more
		return e
	}
	for name, c := range map[string]struct {
		sent []*replication.Event
		want string // what the events are, and what the watch ends with
	}{
		"whole":                {[]*replication.Event{longList(2)}, "LISTED 2; node other: over"},
		"whole, in two parts":  {[]*replication.Event{part(listIndex, true), part(listIndex, false)}, "LISTED 4; node other: over"},
		"two, one after other": {[]*replication.Event{part(listIndex, false), part(listIndex+1, false)}, "LISTED 2; LISTED 2; node other: over"},
		"never whole":          {[]*replication.Event{part(listIndex, true)}, "node other: over"},
		"of another index": {[]*replication.Event{part(listIndex, true), part(listIndex+1, false)},
			"reading an event of node other: KIND_LISTED of index 4712 comes within a list of index 4711"},
		"something else between": {[]*replication.Event{part(listIndex, true), {Kind: replication.Event_KIND_GRANTED, Index: listIndex}},
			"reading an event of node other: KIND_GRANTED of index 4711 comes within a list of index 4711"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: security(t, clusterSecret, "other")})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			served := make(chan struct{})
			go func() { // ends with the connection, which the pool closes
				defer close(served)
				conn, err := l.Protocol(link.ProtocolLink).Accept()
				if err != nil {
					t.Error(err)
					return
				}
				c := stream.New(conn.(*link.Conn), stream.Options{Handler: func(_ context.Context, in *stream.Incoming) {
					for _, e := range c.sent {
						if err := in.Send(e); err != nil {
							return // the other end has ended the watch
						}
					}
					_ = in.Fail(errors.New("over"))
				}})
				<-c.Done()
				c.Close()
			}()
			var book addresses
			book.set("other", l.Addr().String())
			proxy := start(t, &book, clusterSecret.Proxy(), "proxy", link.ServerOptions{})
			var got []string
			err = proxy.pool.Watch(t.Context(), "other", []byte("s"), func(e *replication.Event) {
				got = append(got, fmt.Sprintf("%s %d", strings.TrimPrefix(e.GetKind().String(), "KIND_"), len(e.GetHolds())))
			})
			got = append(got, err.Error())
			if told := strings.Join(got, "; "); told != c.want {
				t.Errorf("told %q, want %q", told, c.want)
			}
			proxy.pool.Close()
			<-served
		})
	}
}
