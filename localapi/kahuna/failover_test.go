package kahuna_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
	"github.com/kahu-sh/kahu/replication/voter"
)

// voters are three of them in this process, without a restart.
type voters struct {
	t      *testing.T
	ids    []string
	mu     sync.Mutex
	nodes  map[string]*voter.Voter
	stores map[string]*voter.MemoryStorage
}

// oneByOne is Raft's transport in memory without its pipeline, which panics over an
// answer that is an error alone, such as that of a voter that is stopping.
type oneByOne struct{ *raft.InmemTransport }

// AppendEntriesPipeline implements raft.Transport.
func (oneByOne) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func startVoters(t *testing.T) *voters {
	t.Helper()
	c := &voters{t: t, ids: []string{"n1", "n2", "n3"}, nodes: map[string]*voter.Voter{}, stores: map[string]*voter.MemoryStorage{}}
	transports := map[string]*raft.InmemTransport{}
	for _, id := range c.ids {
		_, transports[id] = raft.NewInmemTransport(raft.ServerAddress(id))
	}
	for _, a := range c.ids {
		for _, b := range c.ids {
			transports[a].Connect(raft.ServerAddress(b), transports[b])
		}
	}
	begin := time.Now()
	for _, id := range c.ids {
		store, err := voter.NewMemoryStorage()
		if err != nil {
			t.Fatal(err)
		}
		v, err := voter.Open(voter.Config{NodeID: id, Storage: store, Transport: oneByOne{transports[id]},
			AskTerm: func(_ context.Context, node string) (uint64, error) {
				if v := c.node(node); v != nil {
					return v.Term(), nil
				}
				return 0, errors.New("down")
			},
			AskReadIndex: func(ctx context.Context, node string) (uint64, error) {
				if v := c.node(node); v != nil {
					return v.ReadIndex(ctx)
				}
				return 0, errors.New("down")
			},
			LeaseNow: func() time.Duration { return time.Since(begin) },
			Fatal:    func(err error) { t.Errorf("%s: %v", id, err) },
			Logger:   slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[id], c.stores[id] = v, store
	}
	t.Cleanup(func() {
		for _, id := range c.ids {
			c.stop(id)
			if err := c.stores[id].Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for _, id := range c.ids {
		if err := c.nodes[id].Bootstrap(c.ids); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			t.Fatal(err)
		}
	}
	return c
}

func (c *voters) node(id string) *voter.Voter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// stop ends a voter as if it were killed.
func (c *voters) stop(id string) {
	c.mu.Lock()
	v := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	if v == nil {
		return
	}
	if err := v.Shutdown(0); err != nil {
		c.t.Errorf("stopping %s: %v", id, err)
	}
}

// leader waits for a voter that serves.
func (c *voters) leader() string {
	leader := ""
	eventually(c.t, "a voter leads and serves", func() bool {
		for _, id := range c.ids {
			if v := c.node(id); v != nil && v.Status().Serving {
				leader = id
				return true
			}
		}
		return false
	})
	return leader
}

// Do implements forward.Remote.
func (c *voters) Do(ctx context.Context, id string, req *replication.Request) (*replication.Answer, error) {
	v := c.node(id)
	if v == nil {
		return nil, errors.New("connection refused")
	}
	// As over a link: the other side decodes a request of its own.
	b, err := req.MarshalVT()
	if err != nil {
		return nil, err
	}
	own := new(replication.Request)
	if err := own.UnmarshalVT(b); err != nil {
		return nil, err
	}
	return v.Serve(ctx, own)
}

// Watch implements forward.Remote.
func (c *voters) Watch(context.Context, string, []byte, func(*replication.Event)) error {
	return errors.New("no sessions here")
}

// proxy is a Coordinator of an agent that does not vote.
func (c *voters) proxy() *forward.Forwarder {
	f := forward.New(forward.Config{Node: "proxy", Host: "test", Remote: c, Logger: slog.New(slog.DiscardHandler),
		Voters: func() []string { return c.ids }})
	c.t.Cleanup(func() {
		if err := f.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return f
}

// TestLeaderChangesUnderAStream: whatever is in flight when leaders change and die
// ends with its answer or MustRetry, and each request has effect at most once.
func TestLeaderChangesUnderAStream(t *testing.T) {
	c := startVoters(t)
	c.leader()
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: c.proxy()}).dial())
	const writers = 64
	var acked, undecided [writers]int64
	var total atomic.Int64
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := kv.call(set(fmt.Sprint("w", w), "v"))
				if err != nil {
					t.Errorf("the stream broke: %v", err)
					return
				}
				switch r := a.(*pb.GrpcTrySetKeyValueResponse); r.Type {
				case 0:
					acked[w]++
					total.Add(1)
				case 101:
					undecided[w]++
				default:
					t.Errorf("writer %d: %v", w, r)
				}
			}
		})
	}
	progress := func(what string) {
		t.Helper()
		before := total.Load()
		eventually(t, "writes go on after "+what, func() bool { return total.Load() > before+writers })
	}
	progress("the begin")
	for range 3 {
		old := c.leader()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		// A transfer may fail; an election follows then as well.
		_ = c.node(old).TransferLeadership(ctx, "")
		cancel()
		progress("a transfer of leadership")
	}
	c.stop(c.leader())
	progress("the death of a leader")
	close(stop)
	writing.Wait()
	for w := range writers {
		a := ask[*pb.GrpcTryGetKeyValueResponse](t, kv, get(fmt.Sprint("w", w)))
		if applied := a.Revision + 1; a.Type != 3 || applied < acked[w] || applied > acked[w]+undecided[w] {
			t.Errorf("writer %d: %d writes have effect, of %d acknowledged and %d undecided: %v", w, applied, acked[w], undecided[w], a)
		}
	}
}
