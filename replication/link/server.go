package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Methods of ProtocolLink. Numbers are never reused.
const (
	methodDo        uint8 = 1
	methodWatch     uint8 = 2
	methodReadIndex uint8 = 3
	methodTerm      uint8 = 4
	methodHello     uint8 = 5
	methodJoin      uint8 = 6
	methodLeave     uint8 = 7
	methodPledge    uint8 = 8
	methodBackup    uint8 = 12
	methodChange    uint8 = 9
	methodVote      uint8 = 10
	methodFollow    uint8 = 11
	// A voter that does not lead passes these on to the leader (relay.go).
	methodRelayDo    uint8 = 13
	methodRelayWatch uint8 = 14
)

// method is a row of the table of what a Server does.
type method struct {
	name      string
	voterOnly bool // refused to proxies
	streams   bool // is opened, not called
	serve     func(s *Server, ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error)
}

// methods has everything that is served; what is not in it is refused.
var methods = map[uint8]method{
	methodDo:        {name: "Do", serve: (*Server).do},
	methodWatch:     {name: "Watch", streams: true, serve: (*Server).watch},
	methodReadIndex: {name: "ReadIndex", serve: (*Server).readIndex},
	methodTerm:      {name: "Term", voterOnly: true, serve: (*Server).term},
	methodHello:     {name: "Hello", serve: (*Server).hello},
	methodJoin:      {name: "Join", voterOnly: true, serve: (*Server).join},
	methodLeave:     {name: "Leave", voterOnly: true, serve: (*Server).leave},
	methodPledge:    {name: "Pledge", voterOnly: true, serve: (*Server).pledge},
	methodBackup:    {name: "Backup", voterOnly: true, streams: true, serve: (*Server).backup},
	methodChange:    {name: "Change", voterOnly: true, serve: (*Server).change},
	methodVote:      {name: "Vote", voterOnly: true, serve: (*Server).vote},
	methodFollow:    {name: "Follow", streams: true, serve: (*Server).follow},

	methodRelayDo:    {name: "RelayDo", serve: (*Server).relayDo},
	methodRelayWatch: {name: "RelayWatch", streams: true, serve: (*Server).relayWatch},
}

// ServerOptions configure a Server.
type ServerOptions struct {
	Voter   Voter   // nil on an agent that does not vote
	Members Members // nil: what membership answers is refused
	// Backup writes a backup of this voter's state. Optional: nil refuses it.
	Backup func(ctx context.Context, out io.Writer) error
	// Relay reaches the leader for agents that do not. Optional: nil passes nothing on.
	Relay Relay
	// Wall is this host's wall clock, told to other voters. Optional: time.Now.
	Wall   func() time.Time
	Stream stream.Options // optional; Handler is ignored, KeepAlive is DefaultKeepAlive
	Logger *slog.Logger   // optional
}

// Server answers other agents on the connections of ProtocolLink.
type Server struct {
	o ServerOptions

	mu      sync.Mutex
	closed  bool
	conns   map[*stream.Conn]struct{}
	running sync.WaitGroup // one per connection
}

// NewServer returns a Server; Serve starts it.
func NewServer(o ServerOptions) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Stream.KeepAlive == 0 {
		o.Stream.KeepAlive = DefaultKeepAlive
	}
	if o.Stream.Logger == nil {
		o.Stream.Logger = o.Logger
	}
	return &Server{o: o, conns: make(map[*stream.Conn]struct{})}
}

// Serve accepts connections of l, which is a Listener's Protocol(ProtocolLink),
// until l or the Server is closed. It returns nil then.
func (s *Server) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting connections of other agents: %w", err)
		}
		conn, ok := c.(*Conn)
		if !ok {
			c.Close()
			return fmt.Errorf("a connection of type %T carries no identity: serve a Listener's Protocol", c)
		}
		if !s.begin(conn) {
			conn.Close()
			return nil
		}
	}
}

// begin reports false when the Server is closed.
func (s *Server) begin(conn *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	o := s.o.Stream
	from := conn.peer
	o.Handler = func(ctx context.Context, in *stream.Incoming) { s.handle(ctx, from, in) }
	o.Peer = conn.RemoteAddr()
	sc := stream.New(conn, o)
	s.conns[sc] = struct{}{}
	// Ends when the connection does; Close ends them all and waits.
	s.running.Go(func() {
		<-sc.Done()
		sc.Close() // waits for the handlers
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, sc)
	})
	return true
}

// Close ends all connections and waits for what was being served; the ctx of
// each request ends. Answers that were given before are still written.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	conns := make([]*stream.Conn, 0, len(s.conns))
	for sc := range s.conns {
		conns = append(conns, sc)
	}
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, sc := range conns {
		closing.Go(func() { sc.Close() })
	}
	closing.Wait()
	s.running.Wait()
	return nil
}

// handle serves one request of from.
func (s *Server) handle(ctx context.Context, from Identity, in *stream.Incoming) {
	m, known := methods[in.Method]
	var answer stream.Message
	var err error
	switch {
	case !known:
		err = fmt.Errorf("%w: method %d is not known here", ErrRefused, in.Method)
	case m.streams != in.Streaming():
		err = fmt.Errorf("%w: %s is asked the other way", ErrRefused, m.name)
	case m.voterOnly && !from.Voter:
		err = fmt.Errorf("%w: %s is for voters, and node %s has a proxy's certificate", ErrRefused, m.name, from.Node)
	default:
		answer, err = m.serve(s, ctx, from, in)
	}
	// An error of Fail or Reply means that the connection is lost: nobody is left to hear.
	switch {
	case err != nil:
		_ = in.Fail(toWire(err))
	case !m.streams:
		_ = in.Reply(answer)
	}
}

var (
	errNoVoter   = fmt.Errorf("%w: this agent does not vote", ErrRefused)
	errNoMembers = fmt.Errorf("%w: this agent takes no part in membership", ErrRefused)
)

func badPayload(err error) error {
	return fmt.Errorf("%w: the request cannot be read: %v", ErrRefused, err)
}

// request reads what from asks of this voter, and refuses what nobody may ask.
func (s *Server) request(from Identity, in *stream.Incoming) (*replication.Request, error) {
	if s.o.Voter == nil {
		return nil, errNoVoter
	}
	req := new(replication.Request)
	// The payload is ours alone, so strings and bytes may point into it.
	if err := req.UnmarshalVTUnsafe(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	if req.IsInternal() || req.GetOp() == nil {
		return nil, fmt.Errorf("%w: node %s asks for what only a leader proposes itself (%T)", ErrRefused, from.Node, req.GetOp())
	}
	return req, nil
}

func (s *Server) do(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req, err := s.request(from, in)
	if err != nil {
		return nil, err
	}
	answer, err := s.o.Voter.Serve(ctx, req)
	if err != nil {
		return nil, err // not a nil *Answer in a Message
	}
	return answer, nil
}

func (s *Server) readIndex(ctx context.Context, _ Identity, _ *stream.Incoming) (stream.Message, error) {
	if s.o.Voter == nil {
		return nil, errNoVoter
	}
	index, err := s.o.Voter.ReadIndex(ctx)
	return &Index{Value: index}, err
}

func (s *Server) term(context.Context, Identity, *stream.Incoming) (stream.Message, error) {
	if s.o.Voter == nil {
		return nil, errNoVoter
	}
	return &Index{Value: s.o.Voter.Term(), WallMs: s.o.Wall().UnixMilli()}, nil
}

func (s *Server) hello(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(Hello)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	answer, err := s.o.Members.Hello(ctx, from, req)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (s *Server) join(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(JoinRequest)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	return &Done{}, s.o.Members.Join(ctx, from, req)
}

func (s *Server) leave(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(LeaveRequest)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	return &Done{}, s.o.Members.Leave(ctx, from, req)
}

func (s *Server) pledge(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(PledgeRequest)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	answer, err := s.o.Members.Pledge(ctx, from, req)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (s *Server) change(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(ChangeRequest)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	return &Done{}, s.o.Members.Change(ctx, from, req)
}

func (s *Server) vote(ctx context.Context, from Identity, in *stream.Incoming) (stream.Message, error) {
	req := new(VoteRequest)
	if s.o.Members == nil {
		return nil, errNoMembers
	}
	if err := req.UnmarshalVT(in.Payload); err != nil {
		return nil, badPayload(err)
	}
	return &Done{}, s.o.Members.Vote(ctx, from, req)
}
