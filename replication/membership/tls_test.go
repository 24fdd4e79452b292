package membership_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// tlsHost is a host with a real link over loopback. Its Raft is the fake one.
type tlsHost struct {
	*host
	port     net.Listener // taken before anybody starts, so that all know all addresses
	security link.Security
	pledged  func() // called after each answer to a pledge

	listener *link.Listener
	server   *link.Server
	pool     *link.Pool
	serving  sync.WaitGroup
}

// observed is a Keeper whose pledges a test sees.
type observed struct {
	*membership.Keeper
	pledged func()
}

func (o observed) Pledge(ctx context.Context, from link.Identity, r *link.PledgeRequest) (*link.PledgeAnswer, error) {
	answer, err := o.Keeper.Pledge(ctx, from, r)
	if err == nil && !r.GetAsk() && answer.GetState() == link.PledgeAnswer_STATE_PLEDGED {
		o.pledged()
	}
	return answer, err
}

func (h *tlsHost) start() {
	t := h.w.t
	k, err := membership.Open(h.config)
	if err != nil {
		t.Errorf("opening %s: %v", h.config.Node, err)
		return
	}
	if h.port == nil {
		if h.port, err = net.Listen("tcp", h.config.Address); err != nil {
			t.Errorf("starting %s again: %v", h.config.Node, err)
			return
		}
	}
	h.listener = link.NewListener(h.port, link.ListenerOptions{Security: h.security})
	h.port = nil
	h.server = link.NewServer(link.ServerOptions{Members: observed{k, h.pledged}})
	h.pool = link.NewPool(link.PoolOptions{Dialer: &link.Dialer{Security: h.security}, Resolve: k.Address})
	h.serving.Go(func() { h.server.Serve(h.listener.Protocol(link.ProtocolLink)) })
	h.w.mu.Lock()
	h.keeper = k
	h.w.mu.Unlock()
	if err := k.Start(h.pool, fakeRaft{h.host}); err != nil {
		t.Errorf("starting %s: %v", h.config.Node, err)
	}
}

func (h *tlsHost) stop() {
	h.host.stop()
	h.pool.Close()
	h.listener.Close()
	h.server.Close()
	h.serving.Wait()
}

func newTLSHost(t *testing.T, w *world, keys *secret.Keys, node string, port net.Listener, seeds []string) *tlsHost {
	config := func(f func(string) (*tls.Config, error)) *tls.Config {
		c, err := f(node)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	h := &tlsHost{port: port, pledged: func() {}, host: w.add(node, 3)}
	h.config.Address, h.config.Seeds = port.Addr().String(), seeds
	h.config.Logger = slog.New(slog.DiscardHandler)
	h.security = link.Security{
		Server: config(keys.ServerTLS), Client: config(keys.ClientTLS),
		RaftServer: config(keys.VoterServerTLS), RaftClient: config(keys.VoterClientTLS),
		Identify: func(cs tls.ConnectionState) (link.Identity, error) {
			node, voter, err := keys.Identify(cs)
			return link.Identity{Node: node, Voter: voter}, err
		},
	}
	return h
}

// Three hosts begin a cluster over real links, in any order of start; one of
// them, proposer or member, is killed and started again right after a pledge.
func TestBeginOverTLS(t *testing.T) {
	for _, victim := range []string{"a", "b", "c"} {
		t.Run("restart of "+victim, func(t *testing.T) {
			keys, err := secret.New(secret.Generate())
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			var seeds []string
			ports := make(map[string]net.Listener)
			for _, node := range []string{"a", "b", "c"} {
				if ports[node], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
					t.Fatal(err)
				}
				seeds = append(seeds, ports[node].Addr().String())
			}
			hosts := make(map[string]*tlsHost)
			for node, port := range ports {
				hosts[node] = newTLSHost(t, w, keys, node, port, seeds)
			}
			pledged := make(chan struct{})
			var once sync.Once
			for _, h := range hosts {
				h.pledged = func() { once.Do(func() { close(pledged) }) }
			}
			order := []string{"a", "b", "c"}
			rand.Shuffle(3, func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, node := range order {
				hosts[node].start()
			}
			<-pledged
			hosts[victim].stop()
			hosts[victim].start()
			w.await(30*time.Second, "three vote, started as "+strings.Join(order, ", "), func() bool { return w.allVote("a", "b", "c") })
			for _, h := range hosts {
				h.stop()
			}
			if want := []string{"a,b,c", "a,b,c", "a,b,c"}; !slices.Equal(w.bootstraps, want) {
				t.Fatalf("bootstrapped %q", w.bootstraps)
			}
		})
	}
}

// Two hosts with different secrets: each says so once, and names the other.
func TestAnotherSecretIsNamedOnce(t *testing.T) {
	w := newWorld(t)
	ports := map[string]net.Listener{}
	var seeds []string
	for _, node := range []string{"a", "b"} {
		var err error
		if ports[node], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, ports[node].Addr().String())
	}
	hosts := map[string]*tlsHost{}
	for node, port := range ports {
		keys, err := secret.New(secret.Generate())
		if err != nil {
			t.Fatal(err)
		}
		hosts[node] = newTLSHost(t, w, keys, node, port, seeds)
		hosts[node].config.Logger = slog.New(slog.NewTextHandler(hosts[node].log, nil))
		hosts[node].config.KeyIDs = keys.IDs
	}
	for _, h := range hosts {
		h.start()
	}
	const line = "has another cluster secret"
	w.await(30*time.Second, "both say so", func() bool {
		return strings.Contains(hosts["a"].log.String(), line) && strings.Contains(hosts["b"].log.String(), line)
	})
	if got := hosts["a"].keeper.Status().Waiting; !strings.Contains(got, hosts["b"].config.Address+" has another cluster secret: copy") {
		t.Errorf("a waits for %q", got)
	}
	for _, h := range hosts {
		h.stop()
	}
	for node, other := range map[string]string{"a": "b", "b": "a"} {
		log := hosts[node].log.String()
		if n := strings.Count(log, line); n != 1 {
			t.Errorf("%s says it %d times:\n%s", node, n, log)
		}
		if !strings.Contains(log, hosts[other].config.Address) || !strings.Contains(log, "key_ids") {
			t.Errorf("%s does not say whose:\n%s", node, log)
		}
	}
}
