package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// How often a Keeper looks around, and for how long it waits for one answer.
const (
	restlessInterval = 300 * time.Millisecond // before it belongs to a working cluster
	settledInterval  = 10 * time.Second
	helloTimeout     = 3 * time.Second
	changeTimeout    = 10 * time.Second // for a change of the Raft configuration
	// confirmTimeout is for how long voters are asked whether one of them can be
	// spared. A change asks twice at most, within changeTimeout.
	confirmTimeout = 3 * time.Second
	// maxHellos is how many addresses are asked at a time.
	maxHellos = 16
	// An address that does not answer is asked less and less often, for ever.
	minRetry         = 300 * time.Millisecond
	maxRetryRestless = 2 * time.Second
	maxRetrySettled  = 30 * time.Second
	// A proposal that was given up is followed by another less and less often.
	maxProposalWait = 10 * time.Second
	// seenFor is how long what a peer said of itself counts as true.
	seenFor = helloTimeout + 2*maxRetryRestless
	// rememberFor is how long it is remembered at all: for vetoes and levels.
	rememberFor = 10 * time.Minute
	// caughtUpEntries is how far behind a new voter may be when it gets its vote.
	caughtUpEntries = 1000
	// defaultReplaceAfter outlasts a reboot and an upgrade of the host.
	defaultReplaceAfter = 10 * time.Minute
	// stableFor is how long a standby has to be there before it gets a vote.
	stableFor = 30 * time.Second
	// neverAnswered is when a node is given up that is to get a vote, and has not answered
	// the leader once; learnAgain is for how long it is then left out.
	neverAnswered = 30 * time.Second
	learnAgain    = 5 * time.Minute
	// maxSaid is how many lines are remembered, so as not to be logged again.
	maxSaid = 1024
	// clockTolerance is how far wall clocks may be apart without a word.
	clockTolerance = time.Minute
)

// Network is how a Keeper reaches other agents. *link.Pool implements it.
type Network interface {
	// HelloAt asks whoever is at address; the identity is verified.
	HelloAt(ctx context.Context, address string, h *link.Hello) (*link.Hello, link.Identity, error)
	Join(ctx context.Context, node string, r *link.JoinRequest) error
	Leave(ctx context.Context, node string, r *link.LeaveRequest) error
	Pledge(ctx context.Context, node string, r *link.PledgeRequest) (*link.PledgeAnswer, error)
	Change(ctx context.Context, node string, r *link.ChangeRequest) error
	Vote(ctx context.Context, node string, r *link.VoteRequest) error
}

// Raft is this node's own part of the quorum. The agent implements it over
// *voter.Voter. Changes work on the leader only, which the others say with a
// *replication.NotLeaderError.
type Raft interface {
	// HasState reports whether this node was ever part of a quorum.
	HasState() bool
	// Bootstrap writes the first configuration, which all nodes write alike. It
	// is called only while HasState is false.
	Bootstrap(nodes []string) error
	// AddLearner lets node receive the log, AddVoter gives it the vote,
	// RemoveServer takes both. They block until it is committed or ctx ends.
	AddLearner(ctx context.Context, node string) error
	AddVoter(ctx context.Context, node string) error
	RemoveServer(ctx context.Context, node string) error
	// TransferLeadership lets node lead, or the best one when it is empty.
	TransferLeadership(ctx context.Context, node string) error
	// Confirm asks node, after it was called, whether it is in the term in which this
	// node leads, and returns nil when it is. It blocks until the answer, or ctx ends.
	Confirm(ctx context.Context, node string) error
	// Quorum returns what this node knows of the quorum now. It does not block.
	Quorum() Quorum
}

// Quorum is one node's knowledge of the quorum.
type Quorum struct {
	Leader   string // node id, empty when unknown
	Applied  uint64 // index that this node has applied
	Level    uint32 // feature level as of that index
	Voters   []string
	Learners []string // receive the log, have no vote
	// Silent is, on the leader alone, for how long each server has not answered
	// Raft, counted from when it began to lead; nil on everybody else.
	Silent map[string]time.Duration
	// Unheard are, on the leader alone, servers that have not answered it once
	// since it began to lead.
	Unheard []string
}

// isNew reports whether this leader cannot tell yet who is there: it has just
// begun, and somebody has not answered since. Who led before may be gone.
func (q Quorum) isNew() bool {
	return slices.ContainsFunc(q.Unheard, func(node string) bool { return q.Silent[node] < shaky })
}

// Config is what a Keeper is made of. Fields without "optional" are required.
type Config struct {
	Node    string // id, made with the data directory
	Name    string // host name, for people; optional
	Voter   bool   // this agent votes or may vote; else it is a proxy
	Auto    bool   // it votes when the cluster needs it; only with Voter. Optional
	Zone    string // where voters are spread over; optional
	Version string // of the program, for people; optional
	Address string // host:port at which others reach this agent
	Dir     string // data directory, where membership.json is kept
	// Seeds are addresses (host:port) to begin with; optional. They are asked for ever.
	Seeds []string
	// Found returns more of them, which may change. It must not block. Optional.
	Found func() []string
	// KeyIDs returns the ids of the secrets in use, for their rotation. Optional.
	KeyIDs func() []string
	// Voters is how many voters are kept by giving votes to agents with Auto, and
	// by taking them back. 0: none is given or taken. Optional.
	Voters int
	// ReplaceAfter is for how long a voter has to be silent until it is replaced.
	// Optional: 10 minutes.
	ReplaceAfter time.Duration
	// Expect is --bootstrap-expect: with how many voters a new cluster begins.
	// 0: this agent waits for a cluster, and never begins one.
	Expect       int
	FeatureLevel uint32 // highest that this binary knows; optional
	Logger       *slog.Logger
}

// Keeper keeps this agent's membership. Its methods may be called concurrently.
type Keeper struct {
	cfg      Config
	instance string               // random: tells a copy of this node's disk from this process
	opened   time.Time            // the later one of two copies ends
	copied   chan error           // has one place: why this agent has to end
	cleared  chan struct{}        // closed when this node may take part in Raft
	view     atomic.Pointer[view] // never nil
	started  chan struct{}        // closed by Start, after which the next two are set
	network  Network
	raft     Raft        // nil on a proxy
	standby  atomic.Bool // this node could vote, and is not asked to

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // the loop
	kick    chan struct{}  // wakes the loop; a token is enough
	change  chan struct{}  // has one place: who is in it changes the quorum, see alone
	looked  chan struct{}  // closed after the first look around

	// mu guards what follows. The file is written under it, so that what was
	// decided is durable before anybody else acts on it; nothing is sent under it.
	mu       sync.Mutex
	state    *state
	unsaved  bool              // the address book differs from the file
	seen     map[string]*sight // by node: what it said last
	tries    map[string]*try   // by address
	hearsay  map[string]string // by node: an address that somebody else told
	said     map[string]bool   // what was logged once
	kahuna   string            // URL of this agent's listener for Kahuna's clients
	begins   bool              // this node was a candidate: it stays one
	moves    map[string]moved  // by node: where it was before
	clearing clearing
	gaveUp   struct { // a proposal of this node, last
		wait  time.Duration
		until time.Time
	}
	met      map[string]time.Time // by cluster: when a successor of the own one was met first
	learners map[string]*learner  // by node: that this leader has let catch up
	// unanswered is since when learners that ask for their vote do not answer this leader.
	unanswered map[string]time.Time
	elsewhere  string // address where this node is said to be, which is not its own
	ledBy      string // who led this node's own quorum when it last said hello
	successor  string // id of the cluster that was made of this one without this node
	strange    string // address where the last agent with another secret was met
	undated    string // address of the last agent whose certificate is not valid at this host's time
	doing      string // one line for people: what this node waits for
}

// sight is what a node said of itself.
type sight struct {
	id    link.Identity
	hello *link.Hello
	at    time.Time
	since time.Time     // of an unbroken row of hellos
	ahead time.Duration // its wall clock of this host's, when it was heard
	timed bool          // it has told its wall clock
}

// try is how it went with an address.
type try struct {
	failed  bool
	why     string // for people, when it failed
	node    string // who was there last
	wait    time.Duration
	retryAt time.Time
}

// Status is what a Keeper knows. For people and metrics.
type Status struct {
	Cluster string `json:"cluster,omitempty"` // id, empty before this node belongs to one
	Pledged string `json:"pledged,omitempty"` // id of a cluster that may begin
	Waiting string `json:"waiting,omitempty"` // one line: what keeps this node from taking part
	Standby bool   `json:"standby,omitempty"` // it could vote, and has no vote
	// Successor is the id of the cluster that this node's was recovered as, without
	// it: it has no part in that one until its data directory is empty.
	Successor string `json:"successor,omitempty"`
	// Strange says that the agent at an address cannot be talked to, and why.
	Strange string `json:"strange,omitempty"`
	Peers   []Peer `json:"peers"` // other voters in the address book
}

// Peer is an entry of the address book.
type Peer struct {
	Node    string `json:"node"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
	Seen    bool   `json:"seen"` // it was heard lately
}

// Standby reports whether this node could vote, and takes no part in the quorum.
// It does not block.
func (k *Keeper) Standby() bool { return k.standby.Load() }

// Status returns what is known now. It does not block on the network.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Cluster: k.state.Cluster, Waiting: k.doing, Standby: k.standby.Load(), Successor: k.successor}
	if k.strange != "" {
		s.Strange = "the agent at " + k.strange + " has another cluster secret: copy the same secret file to both hosts, or give both certificates of one PKI"
		if s.Waiting != "" {
			s.Waiting += "; " + s.Strange
		}
	} else if why := k.unheard(); s.Waiting != "" && why != "" {
		s.Waiting += "; " + why
	}
	if problem := k.undatedProblem(time.Now()); s.Waiting != "" && problem != "" {
		s.Waiting += "; " + problem
	}
	if k.state.Pledge != nil && s.Cluster == "" {
		s.Pledged = k.state.Pledge.Cluster
	}
	for _, p := range k.state.Peers {
		sight := k.seen[p.Node]
		s.Peers = append(s.Peers, Peer{Node: p.Node, Name: p.Name, Address: p.Address,
			Seen: sight != nil && time.Since(sight.at) < seenFor+settledInterval*5/4})
	}
	return s
}

// Open reads the membership of a node. Address, Hello and everything that only
// looks works from then on; Start begins to act.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Node == "" || cfg.Dir == "" || cfg.Logger == nil {
		return nil, errors.New("membership needs a node id, a data directory and a logger")
	}
	if cfg.ReplaceAfter <= 0 {
		cfg.ReplaceAfter = defaultReplaceAfter
	}
	if cfg.Found == nil {
		cfg.Found = func() []string { return nil }
	}
	if cfg.KeyIDs == nil {
		cfg.KeyIDs = func() []string { return nil }
	}
	if cfg.Auto && !cfg.Voter {
		return nil, errors.New("an agent that may get a vote has to be able to vote")
	}
	if cfg.Expect < 0 {
		return nil, fmt.Errorf("bootstrap-expect is %d, it has to be at least 1, or left out", cfg.Expect)
	}
	for _, a := range append([]string{cfg.Address}, cfg.Seeds...) {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	st, err := loadState(cfg.Dir, cfg.Node)
	if err != nil {
		return nil, err
	}
	k := &Keeper{
		cfg:        cfg,
		instance:   randomID(),
		opened:     time.Now(),
		copied:     make(chan error, 1),
		cleared:    make(chan struct{}),
		moves:      make(map[string]moved),
		met:        make(map[string]time.Time),
		learners:   make(map[string]*learner),
		unanswered: make(map[string]time.Time),
		state:      st,
		looked:     make(chan struct{}),
		kick:       make(chan struct{}, 1),
		change:     make(chan struct{}, 1),
		started:    make(chan struct{}),
		seen:       make(map[string]*sight),
		tries:      make(map[string]*try),
		hearsay:    make(map[string]string),
		said:       make(map[string]bool),
		doing:      "starting",
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.publish()
	return k, nil
}

// Start begins to look for others and to act. raft is nil on a proxy. Call it
// once, when the link serves this Keeper as its Members.
func (k *Keeper) Start(network Network, raft Raft) error {
	if k.cfg.Voter != (raft != nil) {
		return fmt.Errorf("membership: voter is %v, but Raft is there: %v", k.cfg.Voter, raft != nil)
	}
	if raft != nil {
		if err := k.checkDisk(raft.HasState()); err != nil {
			return err
		}
	}
	k.network, k.raft = network, raft
	var others []string // that vote
	if raft != nil && raft.HasState() {
		others = slices.DeleteFunc(slices.Clone(raft.Quorum().Voters), func(node string) bool { return node == k.cfg.Node })
	}
	if raft != nil && k.state.Cluster != "" {
		q := raft.Quorum()
		k.standby.Store(k.cfg.Auto && !slices.Contains(q.Voters, k.cfg.Node) && !slices.Contains(q.Learners, k.cfg.Node))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() != nil {
		return nil // Close was faster
	}
	k.beginClearing(others)
	close(k.started)
	k.running.Go(k.loop) // ends when ctx does; Close waits for it
	return nil
}

// checkDisk refuses to act on a disk of which a part was lost: a voter that has
// forgotten its votes must not vote again under the same id (HAZARDS.md 9).
func (k *Keeper) checkDisk(hasState bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !hasState && (k.state.Bootstrapped || k.state.Joined) {
		return fmt.Errorf("this node has voted in cluster %s, but its Raft log is gone: empty the data directory %s, so that this host joins as a new voter, and remove node %s from the quorum",
			k.state.Cluster, k.cfg.Dir, k.cfg.Node)
	}
	// A pledged node may have Raft state before it knows that its pledge was
	// committed: another member was faster, and has sent its log. Only a leader
	// of that cluster sends to this node, so it asks on, and learns the outcome.
	if hasState && k.state.Cluster == "" && k.state.Pledge == nil {
		return fmt.Errorf("this node has a Raft log, but %s with its cluster's id is gone: restore it, or empty the data directory %s, so that this host joins as a new voter",
			stateFile, k.cfg.Dir)
	}
	return nil
}

// Close stops acting and waits for it. Address keeps working.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.cancel()
	k.mu.Unlock()
	k.running.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.saveBook()
}

// loop looks around and acts on what it saw, until Close.
func (k *Keeper) loop() {
	for {
		k.lookAround()
		settled := k.act()
		k.tidy()
		wait := restlessInterval
		if settled {
			wait = settledInterval
		}
		// Agents that start together must not meet in lockstep for ever.
		timer := time.NewTimer(wait*3/4 + mathrand.N(wait/2))
		select {
		case <-timer.C:
		case <-k.kick:
		case <-k.ctx.Done():
		}
		timer.Stop()
		if k.ctx.Err() != nil {
			return
		}
	}
}

// tidy stores the address book and forgets what is long over.
func (k *Keeper) tidy() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.saveBook(); err != nil {
		k.cfg.Logger.Warn("the address book was not stored", "error", err)
	}
	for node, s := range k.seen {
		if time.Since(s.at) > rememberFor {
			delete(k.seen, node)
		}
	}
	k.publish()
}

// sayOnce logs a line once for each key. It needs mu.
func (k *Keeper) sayOnce(key string, level slog.Level, message string, args ...any) {
	if k.said[key] {
		return
	}
	if len(k.said) >= maxSaid {
		clear(k.said) // texts of errors may differ each time
	}
	k.said[key] = true
	k.cfg.Logger.Log(context.Background(), level, message, args...)
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || port == "" || port == "0" || len(a) > 300 {
		return fmt.Errorf("%q is not an address of an agent: it has to be HOST:PORT", a)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("%q is not an address that others can reach: name the host, as in --advertise HOST:PORT", a)
	}
	return nil
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}
