package voter_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/types"
	"google.golang.org/protobuf/proto"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage/engines"
	"github.com/kahu-sh/kahu/test/history"
)

// Voters are killed, stopped, cut off, held up, seeded and made to hand over in
// random order, their disks hang, and a fourth one comes and goes; the way to them loses, delays and
// doubles requests, while forwarders on voters and proxies ask. What was answered must be explained by
// one voter without faults, and all voters must end with the same state.
//
// KAHU_CHAOS_SEED repeats a choice of faults, KAHU_CHAOS_FOR runs for longer.
func TestChaos(t *testing.T) {
	duration, seed := 3*time.Second, rand.Uint64()
	if d, err := time.ParseDuration(os.Getenv("KAHU_CHAOS_FOR")); err == nil {
		duration = d
	}
	if s, err := strconv.ParseUint(os.Getenv("KAHU_CHAOS_SEED"), 10, 64); err == nil {
		seed = s
	}
	for _, engine := range []string{engines.Memory, engines.SQLite} {
		t.Run(engine, func(t *testing.T) {
			t.Logf("KAHU_CHAOS_SEED=%d", seed)
			runChaos(t, engine, seed, duration)
		})
	}
}

// four are the places where voters run; the last one has a vote now and then.
var four = append(three[:3:3], "d")

// chaos is a cluster under faults.
type chaos struct {
	*cluster
	t       *testing.T
	history *history.Recorder
	disks   map[string]*logDisk
	late    sync.WaitGroup // requests that are still on their way

	mu   sync.Mutex
	away map[string]bool // nodes that nobody reaches and that reach nobody
	calm atomic.Bool     // the way to the voters is sound again
}

func runChaos(t *testing.T, engine string, seed uint64, duration time.Duration) {
	ch := &chaos{t: t, history: history.NewRecorder(), disks: map[string]*logDisk{}, away: map[string]bool{}}
	for _, id := range four {
		ch.disks[id] = &logDisk{}
	}
	ch.cluster = newClusterOn(t, engine, three, func(cfg *voter.Config) {
		cfg.TrailingEntries, cfg.CompactBytes = 20, 16<<10
		cfg.StallAfter = 400 * time.Millisecond
		self := cfg.NodeID
		disk := ch.disks[self]
		cfg.WrapLogFiles(func(f types.SegmentFiler) types.SegmentFiler { return logFiles{f, disk} })
		term, index := cfg.AskTerm, cfg.AskReadIndex
		cfg.AskTerm = func(ctx context.Context, node string) (uint64, error) {
			if ch.apart(self, node) {
				return 0, errors.New("cut off")
			}
			return term(ctx, node)
		}
		cfg.AskReadIndex = func(ctx context.Context, node string) (uint64, error) {
			if ch.apart(self, node) {
				return 0, errors.New("cut off")
			}
			return index(ctx, node)
		}
	})
	first := ch.client()
	if err := first.do(&replication.Request{Op: &replication.Request_SequenceCreate{SequenceCreate: &replication.SequenceCreate{
		Name: "s", Increment: 1,
	}}}).Refused(); err != nil {
		t.Fatal(err)
	}

	ch.add(four[3])

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var forwarders []*forward.Forwarder
	for i, name := range append([]string{"proxy1", "proxy2"}, four...) {
		f := ch.forwarder(name)
		forwarders = append(forwarders, f)
		for j := range 2 {
			clients.Go(func() { ch.ask(ctx, f, fmt.Sprintf("%d.%d", i, j)) })
		}
		clients.Go(func() { ch.queue(ctx, f) })
	}
	faults := rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(duration); time.Now().Before(end); {
		ch.fault(faults)
	}
	ch.heal()
	cancel()
	clients.Wait()
	for _, f := range forwarders {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	ch.late.Wait()
	ch.compare()
	for _, sentence := range ch.history.Check(time.Minute) {
		t.Error(sentence)
	}
	t.Logf("%d operations", ch.history.Count())
}

// apart reports whether one of two nodes is cut off.
func (ch *chaos) apart(a, b string) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return a != b && (ch.away[a] || ch.away[b])
}

// fault does something to somebody, and waits a little.
func (ch *chaos) fault(r *rand.Rand) {
	n := ch.node(four[r.IntN(len(four))])
	v := n.v.Load()
	switch kind := r.IntN(13); {
	case v == nil:
		n.start()
	case kind <= 1:
		n.stop(0)
	case kind == 2:
		n.stop(time.Second)
		n.start()
	case kind == 3: // together with the forwarder on it
		ch.setAway(n.id, true)
		n.net.cut()
		ch.pause(r, 500*time.Millisecond)
		n.net.mend()
		ch.setAway(n.id, false)
	case kind == 4: // what was sent to it arrives late
		n.net.hold()
		ch.pause(r, 400*time.Millisecond)
		n.net.release()
	case kind == 5:
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_ = v.TransferLeadership(ctx, "") // only a leader does
		cancel()
	case kind <= 8: // only a leader does
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		change := []func(context.Context, string) error{v.AddLearner, v.AddVoter, v.RemoveServer}[r.IntN(3)]
		_ = change(ctx, four[3])
		cancel()
	case kind <= 10: // long enough for a leader to be deposed, now and then
		ch.disks[n.id].hang()
		ch.pause(r, 800*time.Millisecond)
		ch.disks[n.id].goOn(nil)
	default:
		_ = v.Snapshot() // refused while the quorum changes
	}
	ch.pause(r, 150*time.Millisecond)
}

func (ch *chaos) pause(r *rand.Rand, most time.Duration) {
	<-time.After(time.Duration(r.Int64N(int64(most))))
}

func (ch *chaos) setAway(node string, away bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.away[node] = away
}

// heal starts whoever is down, and makes the way to the voters sound.
func (ch *chaos) heal() {
	ch.calm.Store(true)
	for _, id := range four {
		if n := ch.node(id); n.v.Load() == nil {
			n.start()
		}
	}
	eventually(ch.t, "the fourth gets its vote", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return ch.leader().v.Load().AddVoter(ctx, four[3]) == nil
	})
}

// compare waits until all voters have the same index, and compares their state.
func (ch *chaos) compare() {
	ch.t.Helper()
	eventually(ch.t, "all voters have the same index and state", func() bool {
		var first *voter.Voter
		for _, id := range four {
			v := ch.node(id).v.Load()
			if first == nil {
				first = v
			}
			p, q := first.Position(), v.Position()
			if p.Index != q.Index {
				return false
			}
			if p.Hash != q.Hash || !bytes.Equal(p.Configuration, q.Configuration) || p.LeaseClockNS != q.LeaseClockNS {
				ch.t.Fatalf("at index %d: %+v and %+v", p.Index, p, q)
			}
		}
		return true
	})
	for _, id := range four {
		select {
		case err := <-ch.node(id).fatal:
			ch.t.Errorf("%s: %v", id, err)
		default:
		}
	}
}

// forwarder is that of the agent on node, which may be a proxy.
func (ch *chaos) forwarder(node string) *forward.Forwarder {
	cfg := forward.Config{Node: node, Host: node, Remote: lossy{ch, node}, Logger: ch.logger, Voters: func() []string { return four }}
	if ch.node(node) != nil {
		cfg.Local = lossyLocal{lossy{ch, node}}
	}
	return forward.New(cfg)
}

// lossy is the way from one agent to the voters.
type lossy struct {
	ch   *chaos
	from string
}

var errLost = errors.New("connection lost")

// voter finds the voter at node, if it can be reached.
func (l lossy) voter(node string) (*voter.Voter, error) {
	v := l.ch.node(node).v.Load()
	if v == nil || l.ch.apart(l.from, node) {
		return nil, fmt.Errorf("%w: not there", replication.ErrUnavailable)
	}
	return v, nil
}

func (l lossy) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	v, err := l.voter(node)
	if err != nil {
		return nil, err
	}
	if l.ch.calm.Load() || req.IsRead() {
		return killed(v.Serve(ctx, req))
	}
	switch rand.IntN(20) {
	case 0: // it arrives when nobody waits for it any more, perhaps at another leader
		req := proto.CloneOf(req)
		l.ch.late.Go(func() {
			<-time.After(rand.N(time.Second))
			if v, err := l.voter(node); err == nil {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_, _ = v.Serve(ctx, req)
			}
		})
		return nil, errLost
	case 1: // the answer is lost
		_, _ = v.Serve(ctx, req)
		return nil, errLost
	case 2: // it arrives twice
		req := proto.CloneOf(req)
		l.ch.late.Go(func() { _, _ = v.Serve(ctx, req) })
	}
	return killed(v.Serve(ctx, req))
}

// killed is what another process sees of a voter that ends: a lost connection.
func killed(a *replication.Answer, err error) (*replication.Answer, error) {
	if errors.Is(err, replication.ErrStopped) {
		err = errLost
	}
	return a, err
}

func (l lossy) Watch(ctx context.Context, node string, session []byte, fn func(*replication.Event)) error {
	v, err := l.voter(node)
	if err != nil {
		return err
	}
	if err = v.WatchLocal(ctx, session, fn); errors.Is(err, replication.ErrStopped) {
		err = errLost
	}
	return err
}

// lossyLocal is the voter on the forwarder's own node.
type lossyLocal struct{ lossy }

func (l lossyLocal) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	return l.Do(ctx, l.from, req)
}

func (l lossyLocal) WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	return l.Watch(ctx, l.from, session, fn)
}

// ask is a client whose questions are judged.
func (ch *chaos) ask(ctx context.Context, f *forward.Forwarder, name string) {
	revisions := map[string]int64{}
	for n := 0; ctx.Err() == nil; n++ {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond+rand.N(5*time.Second))
		ch.question(asking, f, fmt.Sprintf("%s.%d", name, n), revisions)
		cancel()
		<-time.After(rand.N(8 * time.Millisecond)) // so that histories can be judged
	}
}

func (ch *chaos) question(ctx context.Context, f *forward.Forwarder, value string, revisions map[string]int64) {
	key := fmt.Sprintf("k%d", rand.IntN(3))
	switch rand.IntN(6) {
	case 0, 1:
		req := put(key, value)
		var p *history.Pending
		if rand.IntN(2) == 0 {
			p = ch.history.Set(key, value)
		} else {
			expected, ok := revisions[key]
			if !ok {
				expected = -1
			}
			item := req.GetWrite().Items[0]
			item.IfRevision, item.CompareRevision = true, expected
			p = ch.history.SetIf(key, value, expected)
		}
		a, err := f.Do(ctx, req)
		switch {
		case err == nil && a.GetCode() == replication.Code_CODE_CONDITION_FAILED:
			revisions[key] = a.GetWritten().GetItems()[0].GetRevision()
			p.Refused(revisions[key])
		case !ch.unanswered(p, a, err):
			revisions[key] = a.GetWritten().GetItems()[0].GetRevision()
			p.Done(revisions[key])
		}
	case 2, 3:
		p := ch.history.Get(key)
		a, err := f.Do(ctx, get(key))
		if err != nil {
			p.Never()
			return
		}
		e := a.GetEntries().GetEntries()[0]
		if !e.GetFound() {
			p.Missing()
			return
		}
		revisions[key] = e.GetRevision()
		p.Found(e.GetRevision(), string(e.GetValue()))
	case 4:
		p := ch.history.Next("s", 1)
		a, err := f.Do(ctx, seqNext("s"))
		if !ch.unanswered(p, a, err) {
			p.Got(a.GetAllocation().GetStart(), a.GetAllocation().GetEnd())
		}
	default:
		ch.pair(ctx, f, value)
	}
}

// unanswered records a change without a decision.
func (ch *chaos) unanswered(p *history.Pending, a *replication.Answer, err error) bool {
	switch {
	case err == nil && a.GetCode() == replication.Code_CODE_OK:
		return false
	case err == nil:
		ch.t.Errorf("a change was refused: %v", a)
		p.Never()
	case errors.Is(err, replication.ErrUnknownOutcome):
		p.Unknown()
	default:
		p.Never()
	}
	return true
}

// pair tries a lock and gives it back.
func (ch *chaos) pair(ctx context.Context, f *forward.Forwarder, owner string) {
	const name = "gate"
	p := ch.history.Try(name, owner)
	a, err := f.Do(ctx, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: []byte(owner), TtlMs: 3_600_000,
	}}})
	switch {
	case err == nil && a.GetCode() == replication.Code_CODE_BUSY:
		p.Busy()
		return
	case !ch.unanswered(p, a, err):
		p.Granted(a.GetLockGrant().GetToken())
	}
	for ch.t.Context().Err() == nil {
		p := ch.history.Unlock(name, owner)
		ctx, cancel := context.WithTimeout(ch.t.Context(), 10*time.Second)
		a, err := f.Do(ctx, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: []byte(owner),
		}}})
		cancel()
		if err == nil && a.GetCode() != replication.Code_CODE_OK {
			p.Unlocked(false)
			return
		}
		if !ch.unanswered(p, a, err) {
			p.Unlocked(true)
			return
		}
	}
}

// queue is an agent with a session of its own that stands in line for locks,
// gives up, and lets its session end now and then. It is judged by the voters'
// states alone.
func (ch *chaos) queue(ctx context.Context, f *forward.Forwarder) {
	for n := 0; ctx.Err() == nil; n++ {
		session := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, rand.Uint64()), rand.Uint64())
		do := func(op *replication.Request) {
			asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_, _ = f.Do(asking, op)
		}
		do(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
			Id: session, Host: "h", Node: "n", TtlMs: 500 + rand.Int64N(1000),
		}}})
		for i := range 20 {
			owner := fmt.Appendf(nil, "%x%016x", session[:8], i)
			name := fmt.Sprintf("queue%d", rand.IntN(3))
			do(&replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
				Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Session: session, Owner: owner, NoQueue: rand.IntN(4) == 0,
			}}})
			switch rand.IntN(4) {
			case 0:
				do(&replication.Request{Op: &replication.Request_LockCancel{LockCancel: &replication.LockCancel{
					Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: owner}}})
			case 1, 2:
				do(&replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
					Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: owner}}})
			}
			if ctx.Err() != nil {
				break
			}
		}
		if rand.IntN(2) == 0 {
			do(&replication.Request{Op: &replication.Request_SessionClose{SessionClose: &replication.SessionClose{Id: session}}})
		}
	}
}
