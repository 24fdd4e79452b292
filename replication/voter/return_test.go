package voter_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/voter"
)

// away is a peer that answers when it is told to.
type away struct {
	raft.Transport
	there atomic.Bool
}

func (a *away) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	if !a.there.Load() {
		return errors.New("connection refused")
	}
	return nil
}

func (a *away) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return errors.New("connection refused")
}

// Raft waits twice as long after each failure, up to ten seconds. So a request to a
// voter that is away fails once, and when it answers heartbeats again, at once.
func TestRequestToAVoterThatIsAwayFailsOnceItIsBack(t *testing.T) {
	entries := func(tr voter.TestTransport) error {
		args := &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 4, PrevLogTerm: 7, Entries: []*raft.Log{{Index: 5, Term: 7}}}
		return tr.AppendEntries("b", "b", args, &raft.AppendEntriesResponse{})
	}
	snapshot := func(tr voter.TestTransport) error {
		return tr.InstallSnapshot("b", "b", &raft.InstallSnapshotRequest{Term: 7}, &raft.InstallSnapshotResponse{}, nil)
	}
	heartbeat := func(tr voter.TestTransport) error {
		return tr.AppendEntries("b", "b", &raft.AppendEntriesRequest{Term: 7}, &raft.AppendEntriesResponse{})
	}
	for _, c := range []struct {
		name string
		send func(voter.TestTransport) error
		ends func(peer *away, leads *atomic.Bool, tr voter.TestTransport)
	}{
		{"entries, and it is back", entries, func(peer *away, _ *atomic.Bool, tr voter.TestTransport) {
			peer.there.Store(true)
			_ = heartbeat(tr) // judged by its caller
		}},
		{"a snapshot, and it is back", snapshot, func(peer *away, _ *atomic.Bool, tr voter.TestTransport) {
			peer.there.Store(true)
			_ = heartbeat(tr)
		}},
		{"another voter leads", entries, func(_ *away, leads *atomic.Bool, _ voter.TestTransport) {
			leads.Store(false)
			time.Sleep(2 * time.Second) // of the bubble's clock: it is looked at once a second
		}},
		{"this voter stops", entries, func(_ *away, _ *atomic.Bool, tr voter.TestTransport) { tr.Cut() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, leads := &away{}, &atomic.Bool{}
				leads.Store(true)
				tr := voter.NewTestTransport(peer, 500*time.Millisecond, leads.Load)
				defer tr.Cut()
				failed := make(chan error, 1)
				go func() { failed <- c.send(tr) }() // ends with the case
				for range 20 {
					if heartbeat(tr) == nil {
						t.Fatal("a heartbeat was answered by nobody")
					}
					time.Sleep(250 * time.Millisecond) // Raft's longest pause between two; the bubble's clock
				}
				synctest.Wait()
				select {
				case err := <-failed:
					t.Fatalf("while the voter was away the request returned, and Raft counts it: %v", err)
				default:
				}
				c.ends(peer, leads, tr)
				synctest.Wait()
				select {
				case err := <-failed:
					if err == nil {
						t.Error("a request that failed has succeeded")
					}
				default:
					t.Error("the request goes on waiting")
				}
			})
		})
	}
}

// A voter that answers, and refuses, is told of at once.
func TestRequestThatFailsAtAVoterThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &away{}
		peer.there.Store(true)
		tr := voter.NewTestTransport(peer, 500*time.Millisecond, func() bool { return true })
		defer tr.Cut()
		if err := tr.AppendEntries("b", "b", &raft.AppendEntriesRequest{Term: 7}, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if tr.InstallSnapshot("b", "b", &raft.InstallSnapshotRequest{Term: 7}, &raft.InstallSnapshotResponse{}, nil) == nil {
			t.Error("it was installed")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it was told after %s", took)
		}
	})
}

// kept is a peer to which so many connections are kept that are broken.
type kept struct {
	raft.Transport
	broken, asked int
	slow          time.Duration // until a broken one shows
}

func (k *kept) ask() error {
	k.asked++
	if k.asked <= k.broken {
		time.Sleep(k.slow) // of the bubble
		return io.EOF
	}
	return nil
}

func (k *kept) RequestVote(raft.ServerID, raft.ServerAddress, *raft.RequestVoteRequest, *raft.RequestVoteResponse) error {
	return k.ask()
}

func (k *kept) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return k.ask()
}

// The other voter was restarted: connections that were kept are broken, and Raft would
// take that for a refusal. One that takes long to show has cost its time already, and a
// voter that is down is not asked for ever.
func TestVotesAreAskedForOverAConnectionThatWorks(t *testing.T) {
	for _, c := range []struct {
		name  string
		peer  kept
		asked int
		fails bool
	}{
		{"a good one", kept{}, 1, false},
		{"one broken", kept{broken: 1}, 2, false},
		{"as many as are kept", kept{broken: 2}, 3, false},
		{"down", kept{broken: 1000}, 3, true},
		{"it hangs", kept{broken: 1, slow: time.Second}, 1, true},
	} {
		for name, ask := range map[string]func(voter.TestTransport) error{
			"vote": func(tr voter.TestTransport) error {
				return tr.RequestVote("b", "b", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
			},
			"pre-vote": func(tr voter.TestTransport) error {
				return tr.RequestPreVote("b", "b", &raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{})
			},
		} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					peer := c.peer
					tr := voter.NewTestTransport(&peer, 500*time.Millisecond, func() bool { return true })
					defer tr.Cut()
					if err := ask(tr); (err != nil) != c.fails || peer.asked != c.asked {
						t.Errorf("asked %d times, want %d: %v", peer.asked, c.asked, err)
					}
				})
			})
		}
	}
}

// pipes is a stream layer whose other ends read everything, and say nothing.
type pipes struct{ raft.StreamLayer }

func (pipes) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, there) }() // ends when here is closed
	return here, nil
}

// When a voter answers again, what hangs to it is closed: nothing else is.
func TestConnectionsThatHangAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := voter.NewTestConns(pipes{})
		dial := func(conn net.Conn, err error) net.Conn {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		hangs := dial(c.Dial("b", time.Second))
		moves := dial(c.Dial("b", time.Second))
		other := dial(c.Dial("c", time.Second))
		prompt := dial(c.Prompt("b"))
		if _, err := hangs.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the bubble's clock
		if _, err := moves.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		fresh := dial(c.Dial("b", time.Second))
		c.Forget("b", time.Second)
		for name, conn := range map[string]net.Conn{"over which bytes go": moves, "to another": other, "of heartbeats": prompt, "that is new": fresh} {
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Errorf("the connection %s: %v", name, err)
			}
			_ = conn.Close() // always nil
		}
		if _, err := hangs.Write([]byte("x")); err == nil {
			t.Error("the connection that hangs is open")
		}
		_ = hangs.Close() // closed
	})
}
