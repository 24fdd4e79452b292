// Package link joins agents: one TCP listener with mutual TLS 1.3 for
// everything they say to each other.
//
// It promises that each end of a connection knows the verified node id of the
// other and whether it may act as a voter; that what only voters may say is
// refused from everybody else; that a request is answered, or fails with
// ErrBroken when the connection was lost; and that strangers, slow handshakes
// and dead peers cost bounded memory and nobody else's time. Listener
// demultiplexes by ALPN into raft's own connections (Raft, a raft.StreamLayer),
// kahu's multiplexed streams (Server, Pool), and gossip's streams (Dialer.Gossip). Where nodes are is told by a
// function; who they are, by the certificates; whom to ask, by package forward.
package link

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

//go:generate protoc --go_out=../.. --go_opt=paths=source_relative --go-vtproto_out=../.. --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size -I../.. replication/link/link.proto

// The protocols on the one port, told apart by ALPN.
const (
	ProtocolRaft = "kahu-raft/1" // voters only, on both ends
	ProtocolLink = "kahu-link/1" // voters and proxies
	// ProtocolGossip is memberlist's streams, voters and proxies. Its packets go
	// by UDP on the same port number, encrypted with the gossip key.
	ProtocolGossip = "kahu-gossip/1"
)

// Voter is what a voter serves to other agents.
type Voter interface {
	// Serve carries out one request on this node. A voter that does not lead
	// answers with a *replication.NotLeaderError.
	Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error)
	// WatchLocal tells fn what happens to a session until ctx ends or the watch
	// breaks; *replication.NotLeaderError as well. fn blocks while the other side
	// does not read: whoever calls it bounds what is held back for it.
	WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error
	// FollowLeader tells fn the term and its leader (empty: unknown) that this node
	// knows of, and again with each change, until ctx ends.
	FollowLeader(ctx context.Context, fn func(term uint64, leader string)) error
	// ReadIndex returns an index at which a read is linearizable. Leader only.
	ReadIndex(ctx context.Context) (uint64, error)
	// Term returns the current raft term. It does not block.
	Term() uint64
}

// Members is what membership serves to other agents. from is the verified
// identity of the asker; all but Hello are only called for voters.
type Members interface {
	Hello(ctx context.Context, from Identity, h *Hello) (*Hello, error)
	// Join and Leave answer with a *replication.NotLeaderError when this node does not lead.
	Join(ctx context.Context, from Identity, r *JoinRequest) error
	Leave(ctx context.Context, from Identity, r *LeaveRequest) error
	Pledge(ctx context.Context, from Identity, r *PledgeRequest) (*PledgeAnswer, error)
	// Change carries out an operator's wish, on the leader as Join.
	Change(ctx context.Context, from Identity, r *ChangeRequest) error
	// Vote tells this node whether to take part in the quorum.
	Vote(ctx context.Context, from Identity, r *VoteRequest) error
}

// Identity is what a verified certificate says about its owner.
type Identity struct {
	Node  string // node id
	Voter bool   // holds the voter secret: may act as a voter
}

// Security is how connections are made safe. Both configurations demand and
// verify the peer's certificate, and speak TLS 1.3 only; link adds the
// protocols. The agent fills it from its secret, or from the user's own PKI.
type Security struct {
	Server *tls.Config
	Client *tls.Config
	// RaftServer and RaftClient accept voters only. Nil on an agent that never
	// votes: raft's protocol is then not spoken.
	RaftServer *tls.Config
	RaftClient *tls.Config
	// Identify tells from a verified connection who is at the other end. It leaves
	// Identity.Node empty where certificates do not name the node (Node below).
	Identify func(tls.ConnectionState) (Identity, error)
	// Node is set where certificates do not name nodes, which is so in an own PKI:
	// the id of this one. Both ends then tell theirs first of all (introduce.go).
	Node string
	// Other is accepted as well, for as long as agents move from certificates of one
	// kind to those of another. Which kind a caller means it says by the server name
	// that it asks for: that of Client. Whoever is called shows what he has, and is
	// called again with the other kind if that was not this one. Optional; its own
	// Other is ignored.
	Other *Security
}

// kinds are s and the other one.
func (s *Security) kinds() []*Security {
	if s.Other == nil {
		return []*Security{s}
	}
	return []*Security{s, s.Other}
}

// kind is the one that a caller means who asks for this server name.
func (s *Security) kind(serverName string) *Security {
	if s.Other != nil && s.Other.Client != nil && serverName == s.Other.Client.ServerName {
		return s.Other
	}
	return s
}

var (
	// ErrBroken means that no answer came: the node could not be reached, or the
	// connection was lost. The request may have been carried out, unless
	// ErrNotSent is there as well. The same request may be sent again with the
	// same id.
	ErrBroken = errors.New("no answer from the node")
	// ErrNotSent means that no byte of the request has left.
	ErrNotSent = stream.ErrNotSent
	// ErrUnknownNode means that no address is known for a node. It comes with
	// ErrBroken and ErrNotSent.
	ErrUnknownNode = errors.New("no address is known for the node")
	// ErrRefused means that the other side does not do this for us, however
	// often it is asked.
	ErrRefused = errors.New("refused by the other agent")
	// ErrWrongNode means that another node than the expected one, or no voter,
	// answers at an address.
	ErrWrongNode = errors.New("another node answers at this address")
)
