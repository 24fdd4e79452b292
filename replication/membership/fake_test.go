package membership_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network of hosts in one process, with what Raft would do.
type world struct {
	t  testing.TB
	mu sync.Mutex

	hosts map[string]*host // by node
	cuts  map[[2]string]bool
	// lose, when set, is asked for each answer whether it gets lost on its way,
	// under mu.
	lose func(from, to, what string) bool
	// slow says that an address where nobody is says nothing, rather than that.
	slow bool
	far  map[string]time.Duration // how much longer the way to an address takes

	// quorum is the one Raft configuration that there may be.
	voters, learners []string
	unheard          []string         // servers that have not answered the leader yet, which has just begun
	ownVotes         []string         // leaders that took their own vote, and left nobody to lead
	refuses          map[string]error // how a connection to a host fails
	noHeir           bool             // nobody takes over leadership
	mute             string           // a server that never answers the leader, which has led for an hour
	applied          map[string]uint64
	level            uint32   // feature level of the one cluster
	bootstraps       []string // "cluster of a,b,c", one for each that was written
}

// host is a machine: what is in it survives the process.
type host struct {
	w        *world
	config   membership.Config
	voter    bool
	hasState bool

	keeper  *membership.Keeper // nil while it is down
	stopped time.Time
	log     *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t testing.TB) *world {
	return &world{t: t, hosts: make(map[string]*host), cuts: make(map[[2]string]bool), applied: make(map[string]uint64)}
}

// add makes a host. Its address is its node id; everybody is its seed.
func (w *world) add(node string, expect int, seeds ...string) *host {
	return w.addHost(node, true, expect, seeds)
}

func (w *world) addProxy(node string, seeds ...string) *host {
	return w.addHost(node, false, 0, seeds)
}

func (w *world) addHost(node string, voter bool, expect int, seeds []string) *host {
	h := &host{w: w, voter: voter, log: &syncBuffer{}}
	h.config = membership.Config{Node: node, Name: "host-" + node, Voter: voter, Address: address(node),
		Dir: w.t.TempDir(), Expect: expect, FeatureLevel: 1, Logger: slog.New(slog.NewTextHandler(h.log, nil))}
	for _, s := range seeds {
		h.config.Seeds = append(h.config.Seeds, address(s))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[node] = h
	return h
}

// configure changes how a host that is down will be started.
func (h *host) configure(change func(c *membership.Config)) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	change(&h.config)
}

func address(node string) string { return node + ".test:7700" }

func (h *host) start() {
	k, err := membership.Open(h.config)
	if err != nil {
		h.w.t.Errorf("opening %s: %v", h.config.Node, err)
		return
	}
	h.w.mu.Lock()
	h.keeper = k
	h.w.mu.Unlock()
	var raft membership.Raft
	if h.voter {
		raft = fakeRaft{h}
	}
	if err := k.Start(fakeNetwork{h}, raft); err != nil {
		h.w.t.Errorf("starting %s: %v", h.config.Node, err)
	}
}

func (h *host) stop() {
	h.w.mu.Lock()
	k := h.keeper
	h.keeper, h.stopped = nil, time.Now()
	h.w.mu.Unlock()
	if k != nil {
		k.Close()
	}
}

func (w *world) stop() {
	for _, h := range w.hosts {
		h.stop()
	}
}

func (w *world) cut(a, b string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts[[2]string{a, b}], w.cuts[[2]string{b, a}] = cut, cut
}

// fakeNetwork is the network as one host sees it.
type fakeNetwork struct{ h *host }

var errUnreachable = errors.New("no route to host")

// reach returns the keeper at the other end, after some time on the way.
func (n fakeNetwork) reach(ctx context.Context, node string) (*membership.Keeper, error) {
	if err := travel(ctx); err != nil {
		return nil, err
	}
	w := n.h.w
	w.mu.Lock()
	if err := w.refuses[node]; err != nil {
		w.mu.Unlock()
		return nil, err
	}
	to, slow := w.hosts[node], w.slow
	if to != nil && to.keeper != nil && !w.cuts[[2]string{n.h.config.Node, node}] {
		defer w.mu.Unlock()
		return to.keeper, nil
	}
	w.mu.Unlock()
	if slow {
		<-ctx.Done()
	}
	return nil, errUnreachable
}

func travel(ctx context.Context) error {
	select {
	case <-time.After(5 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// back is the way of an answer.
func (n fakeNetwork) back(ctx context.Context, node, what string) error {
	w := n.h.w
	w.mu.Lock()
	lost := w.lose != nil && w.lose(n.h.config.Node, node, what)
	w.mu.Unlock()
	if lost {
		return errUnreachable
	}
	return travel(ctx)
}

func (n fakeNetwork) id() link.Identity {
	return link.Identity{Node: n.h.config.Node, Voter: n.h.voter}
}

func (n fakeNetwork) HelloAt(ctx context.Context, at string, h *link.Hello) (*link.Hello, link.Identity, error) {
	node := ""
	n.h.w.mu.Lock()
	far := n.h.w.far[at]
	for key, h := range n.h.w.hosts { // the key of a copy is not its node
		if h.config.Address == at {
			node = key
		}
	}
	n.h.w.mu.Unlock()
	time.Sleep(far) // of the bubble
	to, err := n.reach(ctx, node)
	if err != nil {
		return nil, link.Identity{}, err
	}
	answer, err := to.Hello(ctx, n.id(), h)
	if err == nil {
		err = n.back(ctx, node, "Hello")
	}
	n.h.w.mu.Lock()
	defer n.h.w.mu.Unlock()
	return answer, link.Identity{Node: n.h.w.hosts[node].config.Node, Voter: n.h.w.hosts[node].voter}, err
}

func (n fakeNetwork) Join(ctx context.Context, node string, r *link.JoinRequest) error {
	to, err := n.reach(ctx, node)
	if err != nil {
		return err
	}
	return errors.Join(to.Join(ctx, n.id(), r), n.back(ctx, node, "Join"))
}

func (n fakeNetwork) Leave(ctx context.Context, node string, r *link.LeaveRequest) error {
	to, err := n.reach(ctx, node)
	if err != nil {
		return err
	}
	return errors.Join(to.Leave(ctx, n.id(), r), n.back(ctx, node, "Leave"))
}

func (n fakeNetwork) Pledge(ctx context.Context, node string, r *link.PledgeRequest) (*link.PledgeAnswer, error) {
	to, err := n.reach(ctx, node)
	if err != nil {
		return nil, err
	}
	answer, err := to.Pledge(ctx, n.id(), r)
	if err == nil {
		err = n.back(ctx, node, "Pledge")
	}
	return answer, err
}

func (n fakeNetwork) Change(ctx context.Context, node string, r *link.ChangeRequest) error {
	to, err := n.reach(ctx, node)
	if err != nil {
		return err
	}
	return errors.Join(to.Change(ctx, n.id(), r), n.back(ctx, node, "Change"))
}

func (n fakeNetwork) Vote(ctx context.Context, node string, r *link.VoteRequest) error {
	to, err := n.reach(ctx, node)
	if err != nil {
		return err
	}
	return errors.Join(to.Vote(ctx, n.id(), r), n.back(ctx, node, "Vote"))
}

// fakeRaft is a host's part of the world's one quorum.
type fakeRaft struct{ h *host }

func (r fakeRaft) HasState() bool {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	return r.h.hasState
}

func (r fakeRaft) Bootstrap(nodes []string) error {
	w := r.h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.h.hasState {
		return errors.New("bootstrap only works on new clusters")
	}
	r.h.hasState = true
	if w.voters == nil {
		w.voters = slices.Clone(nodes)
	}
	w.bootstraps = append(w.bootstraps, strings.Join(nodes, ","))
	return nil
}

// leader needs mu: the lowest voter that runs and has state, if most do.
func (w *world) leader() string {
	var up []string
	for _, v := range w.voters {
		if h := w.hosts[v]; h != nil && h.keeper != nil && h.hasState {
			up = append(up, v)
		}
	}
	if len(w.voters) == 0 || len(up) <= len(w.voters)/2 {
		return ""
	}
	return up[0]
}

func (r fakeRaft) change(do func(w *world)) error {
	w := r.h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if leader := w.leader(); leader != r.h.config.Node {
		return &replication.NotLeaderError{Leader: leader}
	}
	do(w)
	return nil
}

func without(nodes []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == node })
}

func (r fakeRaft) AddLearner(_ context.Context, node string) error {
	return r.change(func(w *world) {
		w.learners = append(without(w.learners, node), node)
		w.hosts[node].hasState = true
	})
}

func (r fakeRaft) AddVoter(_ context.Context, node string) error {
	return r.change(func(w *world) {
		w.learners = without(w.learners, node)
		w.voters = append(without(w.voters, node), node)
	})
}

func (r fakeRaft) RemoveServer(ctx context.Context, node string) error {
	if err := travel(ctx); err != nil { // until it is committed
		return err
	}
	return r.change(func(w *world) {
		if node == r.h.config.Node {
			w.ownVotes = append(w.ownVotes, node)
		}
		w.learners, w.voters = without(w.learners, node), without(w.voters, node)
	})
}

func (r fakeRaft) Quorum() membership.Quorum {
	w := r.h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !r.h.hasState {
		return membership.Quorum{}
	}
	q := membership.Quorum{Leader: w.leader(), Applied: w.applied[r.h.config.Node], Level: w.level,
		Voters: slices.Clone(w.voters), Learners: slices.Clone(w.learners)}
	if q.Leader == r.h.config.Node {
		q.Silent, q.Unheard = make(map[string]time.Duration), slices.Clone(w.unheard)
		for _, node := range append(slices.Clone(w.voters), w.learners...) {
			if node == w.mute {
				q.Unheard, q.Silent[node] = append(q.Unheard, node), time.Hour
				continue
			}
			if h := w.hosts[node]; h.keeper == nil && !slices.Contains(w.unheard, node) {
				q.Silent[node] = time.Since(h.stopped)
			}
		}
	}
	return q
}

func (r fakeRaft) Confirm(ctx context.Context, node string) error {
	_, err := fakeNetwork(r).reach(ctx, node)
	return err
}

func (r fakeRaft) TransferLeadership(_ context.Context, node string) error {
	r.h.w.mu.Lock()
	noHeir := r.h.w.noHeir
	r.h.w.mu.Unlock()
	if noHeir {
		return errors.New("no voter took over in time")
	}
	return r.change(func(w *world) {
		rest := without(w.voters, r.h.config.Node)
		if node == "" {
			node = rest[0]
		}
		w.voters = append([]string{node}, append(without(rest, node), r.h.config.Node)...) // the first that is up leads
	})
}

// await waits, in the time of the test's bubble, until ok; what says for what.
func (w *world) await(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("after %v still not: %s\n%s", limit, what, w)
		}
	}
}

// String shows where everybody stands.
func (w *world) String() string {
	var b strings.Builder
	w.mu.Lock()
	fmt.Fprintf(&b, "voters %v, learners %v, leader %q, bootstraps %q\n", w.voters, w.learners, w.leader(), w.bootstraps)
	keepers := make(map[string]*membership.Keeper)
	for node, h := range w.hosts {
		keepers[node] = h.keeper
	}
	w.mu.Unlock()
	for node, k := range keepers {
		if k == nil {
			fmt.Fprintf(&b, "%s: down\n", node)
		} else {
			fmt.Fprintf(&b, "%s: %+v\n", node, k.Status())
		}
	}
	return b.String()
}

// allVote reports whether all these have a vote in one cluster, and know it.
func (w *world) allVote(nodes ...string) bool {
	clusters := make(map[string]bool)
	for _, node := range nodes {
		w.mu.Lock()
		k := w.hosts[node].keeper
		is := slices.Contains(w.voters, node)
		w.mu.Unlock()
		if k == nil || !is || k.Status().Waiting != "" {
			return false
		}
		clusters[k.Status().Cluster] = true
	}
	return len(clusters) == 1 && !clusters[""]
}
