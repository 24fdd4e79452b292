package voter

import (
	"context"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// Voter is a running member of the quorum.
type Voter struct{}

// Open starts a voter on its storage.
func Open(cfg Config) (*Voter, error) { panic("being written") }

// Serve answers one request on behalf of anybody who may ask voters.
func (v *Voter) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	panic("being written")
}

// WatchLocal tells fn about a session; leader only.
func (v *Voter) WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	panic("being written")
}

// ReadIndex returns an index at which a read is linearizable; leader only.
func (v *Voter) ReadIndex(ctx context.Context) (uint64, error) { panic("being written") }

// Term returns the current Raft term.
func (v *Voter) Term() uint64 { panic("being written") }

// Status tells where this voter stands.
func (v *Voter) Status() Status { panic("being written") }

// HasState reports whether this voter ever was in a cluster.
func (v *Voter) HasState() bool { panic("being written") }

// Bootstrap makes the first configuration, of exactly these node ids.
func (v *Voter) Bootstrap(servers []string) error { panic("being written") }

// AddVoter, RemoveServer and TransferLeadership change the quorum; leader only.
func (v *Voter) AddVoter(ctx context.Context, node string) error { panic("being written") }

// RemoveServer takes node out of the configuration.
func (v *Voter) RemoveServer(ctx context.Context, node string) error { panic("being written") }

// TransferLeadership hands over to node, or to the best one when empty.
func (v *Voter) TransferLeadership(ctx context.Context, node string) error { panic("being written") }

// Servers lists the latest configuration.
func (v *Voter) Servers() []Peer { panic("being written") }

// Shutdown stops gracefully within the timeout: leadership goes first.
func (v *Voter) Shutdown(timeout time.Duration) error { panic("being written") }
