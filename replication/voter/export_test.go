package voter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage"
)

// Fast shortens elections for tests.
func (c *Config) Fast() { c.SetTiming(150*time.Millisecond, 5*time.Millisecond) }

// SetTiming sets all of Raft's timeouts, and its commit timeout.
func (c *Config) SetTiming(timeout, commit time.Duration) {
	c.timing = timing{heartbeat: timeout, election: timeout, lease: timeout, commit: commit}
}

// Slow has all of Raft's timeouts but its commit timeout be n times what they are
// otherwise, and returns how long the others wait before they elect.
func (c *Config) Slow(n time.Duration) time.Duration {
	t := defaultTiming
	c.timing = timing{heartbeat: n * t.heartbeat, election: n * t.election, lease: n * t.lease, commit: t.commit}
	return n * t.heartbeat
}

// WrapLogFiles lets a test break the disk of the log.
func (c *Config) WrapLogFiles(f func(types.SegmentFiler) types.SegmentFiler) { c.logFiles = f }

// HeldAnswers is how many answers of followers wait for this voter's own disk.
func (v *Voter) HeldAnswers() int { return int(v.transport.held.Load()) }

// EntriesOf counts the entries of a term in the log.
func (v *Voter) EntriesOf(term uint64) (n int, err error) {
	first, _ := v.log.FirstIndex()
	last, _ := v.log.LastIndex()
	for i := max(first, 1); i <= last; i++ {
		var e raft.Log
		if err := v.log.GetLog(i, &e); err != nil {
			return 0, err
		}
		if e.Term == term {
			n++
		}
	}
	return n, nil
}

// Quiet reports whether the log ends with a digest, so that this leader proposes
// nothing more by itself.
func (v *Voter) Quiet() bool {
	_, last := v.logBounds()
	var e raft.Log
	if v.log.GetLog(last, &e) != nil || e.Type != raft.LogCommand {
		return false
	}
	entry, err := statemachine.DecodeEntry(e.Data)
	return err == nil && len(entry.GetRequests()) == 1 && entry.GetRequests()[0].GetDigest() != nil
}

// Resting is how many pipelines to followers have nothing to say.
func (v *Voter) Resting() int { return int(v.transport.resting.Load()) }

// Riding is to how many followers heartbeats go on without Raft.
func (v *Voter) Riding() int { return int(v.transport.riding.Load()) }

// LogWriteAge is for how long a write of the log has been running.
func (v *Voter) LogWriteAge() time.Duration { return v.log.WriteAge() }

// VerifyLeader is what hashicorp/raft offers as a read barrier.
func (v *Voter) VerifyLeader() error { return v.raft.VerifyLeader().Error() }

// Snapshot flushes and cuts the log now.
func (v *Voter) Snapshot() error { return v.snapshot() }

// Position is where the state machine stands.
func (v *Voter) Position() statemachine.Position { return *v.fsm.position.Load() }

// ProposeEntry puts an entry into the log as it is.
func (v *Voter) ProposeEntry(e *replication.LogEntry) ([]*replication.Answer, error) {
	b, err := statemachine.EncodeEntry(e)
	if err != nil {
		return nil, err
	}
	f := v.entries.Apply(b, time.Second)
	if err := f.Error(); err != nil {
		return nil, err
	}
	answers, _ := f.Response().([]*replication.Answer)
	return answers, nil
}

// Corrupt changes a row behind the state machine's back.
func (v *Voter) Corrupt(fn func(s statemachine.Store)) {
	v.fsm.apply.Lock()
	defer v.fsm.apply.Unlock()
	v.fsm.store.Begin()
	fn(v.fsm.store)
	v.fsm.store.Commit(v.fsm.machine.Position().Index)
}

// HoldApply stops applying until release is called.
func (v *Voter) HoldApply() (release func()) {
	v.fsm.apply.Lock()
	return v.fsm.apply.Unlock
}

// LeaseClock is τ now, if this voter serves as a leader.
func (v *Voter) LeaseClock() (int64, bool) {
	r := v.serving.Load()
	if r == nil {
		return 0, false
	}
	return v.leaseClock(r), true
}

// CheckLog is what decides at start whether log and engine belong together.
var CheckLog = checkLog

// EncodeSnapshot writes rows, which are in order, as a stream of a feature level,
// whose chunks have so many rows.
func EncodeSnapshot(index, term uint64, level uint32, rows []storage.Row, rowsPerChunk int) []byte {
	var e snapshotEncoder
	stream := e.header(nil, snapshotHeader{index: index, term: term, level: level})
	for len(rows) > 0 {
		n := min(rowsPerChunk, len(rows))
		b := e.begin(nil)
		for _, r := range rows[:n] {
			b = e.row(b, r.Key, r.Value)
		}
		stream = append(stream, e.finish(b, uint32(n))...)
		rows = rows[n:]
	}
	return e.end(stream)
}

// DecodeSnapshot reads a stream that arrives in pieces of so many bytes.
func DecodeSnapshot(stream []byte, piece int) (index, term uint64, rows []storage.Row, err error) {
	return DecodeSnapshotKnowing(statemachine.CurrentLevel, stream, piece)
}

// DecodeSnapshotKnowing is DecodeSnapshot by a reader who knows no higher level.
func DecodeSnapshotKnowing(known uint32, stream []byte, piece int) (index, term uint64, rows []storage.Row, err error) {
	d := snapshotDecoder{known: known, rows: func(chunk []storage.Row) error {
		for _, r := range chunk {
			rows = append(rows, storage.Row{Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value)})
		}
		return nil
	}}
	for len(stream) > 0 {
		n := min(piece, len(stream))
		if _, err := d.Write(stream[:n]); err != nil {
			return 0, 0, rows, err
		}
		stream = stream[n:]
	}
	return d.header.index, d.header.term, rows, d.close()
}

// Errors of DecodeSnapshot.
var (
	ErrSnapshotDamaged = errSnapshotDamaged
	ErrSnapshotNewer   = errSnapshotNewer
)

// Install takes this voter's own snapshot, changed by change, as if a leader had
// sent it as of index and term.
func (v *Voter) Install(index, term uint64, change func([]byte) []byte) error {
	_, stream, err := v.snapshots.Open(engineID)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(stream)
	if err = errors.Join(err, stream.Close()); err != nil {
		return err
	}
	sink, err := v.snapshots.Create(1, index, term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	if _, err := sink.Write(change(b)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return v.fsm.install()
}

// SnapshotAround begins a snapshot of this voter's own, runs between, and ends it.
func (v *Voter) SnapshotAround(between func() error) error {
	s, err := v.fsm.Snapshot()
	if err != nil {
		return err
	}
	if err := between(); err != nil {
		return err
	}
	p := v.fsm.position.Load()
	sink, err := v.snapshots.Create(1, p.Index, p.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	return s.Persist(sink)
}

// ErrReplaced is what ends a snapshot when another one was installed meanwhile.
var ErrReplaced = errReplaced

// SnapshotStream is what this voter would send to another one now.
func (v *Voter) SnapshotStream() ([]byte, error) {
	_, stream, err := v.snapshots.Open(engineID)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(stream)
	return b, errors.Join(err, stream.Close())
}

// Decided is the part of a request with entries that is passed on first.
var Decided = decided

// TestPipeline is a pipeline of a leader over what a test plays.
type TestPipeline struct{ *pipeline }

// NewTestPipeline makes one to a follower "b". The log is inner, too.
func NewTestPipeline(inner interface {
	raft.AppendPipeline
	Beyond(index uint64) <-chan struct{}
}, refresh time.Duration) *TestPipeline {
	t := &transport{stalled: func() bool { return false }, log: testLog{inner}, refresh: refresh}
	t.stopping, t.stop = context.WithCancel(context.Background())
	return &TestPipeline{newPipeline(t, "b", inner)}
}

// HeartbeatFails is what the transport takes in of a heartbeat that failed.
func (p *TestPipeline) HeartbeatFails() { p.transport.contacts.missed(p.to) }

// HandOver is that leadership is about to be handed over.
func (p *TestPipeline) HandOver() { p.transport.handingOver.Add(1); p.HeartbeatFails() }

// Cut is the end of all exchanges.
func (p *TestPipeline) Cut() { p.transport.cut() }

type testLog struct {
	log interface {
		Beyond(index uint64) <-chan struct{}
	}
}

func (l testLog) Beyond(index uint64) <-chan struct{}        { return l.log.Beyond(index) }
func (l testLog) AwaitDurable(context.Context, uint64) error { return nil }

// Beat is a beat of heartbeats.
type Beat struct{ *beat }

// NewBeat makes one whose moments lie every apart.
func NewBeat(every time.Duration) Beat { return Beat{newBeat(every)} }

// Await blocks until a heartbeat to id may leave.
func (b Beat) Await(ctx context.Context, id raft.ServerID) error { return b.await(ctx, id) }

// UntilSweep is when a leader looks next for what is due.
var UntilSweep = untilSweep

// DueNever is when nothing will be due.
const DueNever = dueNever

// TestTransport is a transport over what a test plays.
type TestTransport struct{ *transport }

// NewTestTransport makes one that replicates to everybody while leads says so.
func NewTestTransport(inner raft.Transport, heartbeat time.Duration, leads func() bool) TestTransport {
	preVote, _ := inner.(raft.WithPreVote)
	t := &transport{Transport: inner, preVote: preVote, stalled: func() bool { return false }, beat: newBeat(heartbeat / 5), silent: 2 * heartbeat, refresh: 4 * heartbeat}
	t.stopping, t.stop = context.WithCancel(context.Background())
	t.watchReplication(func(raft.ServerID, uint64) bool { return leads() })
	return TestTransport{t}
}

// Cut is the end of all exchanges.
func (t TestTransport) Cut() { t.cut() }

// TestConns are known connections.
type TestConns struct{ *conns }

// NewTestConns makes some over s.
func NewTestConns(s raft.StreamLayer) TestConns { return TestConns{newConns(s, time.Second)} }

// Prompt dials as heartbeats do.
func (c TestConns) Prompt(address raft.ServerAddress) (net.Conn, error) {
	return newDialOnly(c.conns).Dial(address, time.Second)
}

// Forget closes what hangs to address.
func (c TestConns) Forget(address raft.ServerAddress, idle time.Duration) { c.forget(address, idle) }
