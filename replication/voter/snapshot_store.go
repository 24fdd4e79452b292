package voter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// snapshots is Raft's snapshot store over the engine, which is the snapshot:
//
//   - List names what the engine has synced: index, term and configuration.
//   - Create makes a sink. Raft's own snapshots write nothing into it, because
//     flushed.Persist has brought the engine up to date. What another voter or a
//     restore writes into it fills a new generation of the data directory.
//   - Open of what List named streams all rows as of now, which may be a later
//     index than List's, and says so. Open of what a sink received is for
//     fsm.Restore, which reads nothing from it.
type snapshots struct {
	fsm     *fsm
	cfg     Config
	durable atomic.Pointer[statemachine.Position] // of the last flush, or of the start
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// engineID is the id of the one snapshot that List names.
const engineID = "engine"

func newSnapshots(f *fsm, cfg Config) *snapshots {
	s := &snapshots{fsm: f, cfg: cfg}
	s.durable.Store(f.position.Load())
	return s
}

// meta describes position p to Raft.
func (s *snapshots) meta(id string, p *statemachine.Position, size int64) (*raft.SnapshotMeta, error) {
	if len(p.Configuration) == 0 {
		return nil, fmt.Errorf("the engine at index %d has no Raft configuration", p.Index)
	}
	return &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 id,
		Index:              p.Index,
		Term:               p.Term,
		Configuration:      raft.DecodeConfiguration(p.Configuration),
		ConfigurationIndex: p.ConfigurationIndex,
		Size:               size,
	}, nil
}

// List implements raft.SnapshotStore. An engine that nothing was applied to is
// not a snapshot.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	p := s.durable.Load()
	if p.Index == 0 {
		return nil, nil
	}
	m, err := s.meta(engineID, p, 0)
	if err != nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{m}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{store: s, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("received-%d-%d", term, index),
		Index:              index,
		Term:               term,
		Configuration:      configuration,
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id != engineID {
		m, ok := s.fsm.received.meta(id)
		if !ok {
			return nil, nil, fmt.Errorf("there is no snapshot %s", id)
		}
		return m, io.NopCloser(eof{}), nil
	}
	stream, p, err := s.fsm.stream()
	if err != nil {
		return nil, nil, fmt.Errorf("opening a snapshot: %w", err)
	}
	m, err := s.meta(engineID, &p, stream.size)
	if err != nil {
		return nil, nil, errors.Join(err, stream.Close())
	}
	return m, stream, nil
}

// eof is an empty io.Reader.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// flushed is Raft's handle on the state at one position.
type flushed struct {
	fsm      *fsm
	store    *memtable.Store // at that position
	position statemachine.Position
}

// Persist implements raft.FSMSnapshot. It runs beside apply, and blocks until the
// engine has synced everything up to the position. Only then may Raft cut the log.
func (s *flushed) Persist(out raft.SnapshotSink) error {
	f := s.fsm
	f.swap.RLock()
	defer f.swap.RUnlock()
	if f.store != s.store {
		// A snapshot was installed meanwhile. Raft must not take an older index for
		// the newest one.
		return errReplaced
	}
	if err := f.store.Flush(context.Background()); err != nil {
		return err // Raft cancels the sink
	}
	if durable := f.store.Durable(); durable < s.position.Index {
		return fmt.Errorf("after a flush the engine has synced index %d, not %d", durable, s.position.Index)
	}
	if own, ok := out.(*sink); ok {
		own.store.durable.Store(&s.position)
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (s *flushed) Release() {}

// snapshotStream is an outgoing snapshot: rows of a view, encoded as they are read.
type snapshotStream struct {
	fsm    *fsm
	header snapshotHeader
	size   int64

	view  *memtable.View // nil when closed or aborted; guarded by fsm.swap
	state streamState
	enc   snapshotEncoder
	next  []byte // key at which the next chunk begins; nil: at the first
	buf   []byte // of the part at hand
	off   int    // what of buf was read
}

type streamState int

const (
	streamHeader streamState = iota
	streamChunks
	streamDone
)

// errReplaced ends an outgoing snapshot when the state under it was itself
// replaced by one.
var errReplaced = errors.New("the state of this voter was replaced meanwhile")

// stream starts an outgoing snapshot of the state now. It reads everything once
// to know the size, which Raft announces before the first byte.
func (f *fsm) stream() (*snapshotStream, statemachine.Position, error) {
	f.swap.RLock()
	f.apply.Lock()
	view, err := f.viewLocked()
	if err != nil {
		f.apply.Unlock()
		f.swap.RUnlock()
		return nil, statemachine.Position{}, err
	}
	p := f.machine.Position()
	s := &snapshotStream{fsm: f, view: view, header: snapshotHeader{index: p.Index, term: p.Term, level: p.Level}}
	f.streams[s] = struct{}{}
	f.apply.Unlock()
	f.swap.RUnlock()

	for {
		part, err := s.part(s.buf[:0])
		if err != nil {
			return nil, p, errors.Join(err, s.Close())
		}
		if part == nil {
			break
		}
		s.size += int64(len(part))
		s.buf = part[:0]
	}
	s.state, s.enc, s.next, s.buf = streamHeader, snapshotEncoder{}, nil, nil
	return s, p, nil
}

// Read implements io.Reader.
func (s *snapshotStream) Read(p []byte) (int, error) {
	if s.off == len(s.buf) {
		part, err := s.part(s.buf[:0])
		if err != nil {
			return 0, err
		}
		if part == nil {
			return 0, io.EOF
		}
		s.buf, s.off = part, 0
	}
	n := copy(p, s.buf[s.off:])
	s.off += n
	return n, nil
}

// part encodes the next part into b, or returns nil after the last.
func (s *snapshotStream) part(b []byte) ([]byte, error) {
	s.fsm.swap.RLock()
	defer s.fsm.swap.RUnlock()
	if s.view == nil {
		return nil, errReplaced
	}
	switch s.state {
	case streamHeader:
		s.state = streamChunks
		return s.enc.header(b, s.header), nil
	case streamChunks:
		b = s.enc.begin(b)
		rows := uint32(0)
		more := false
		for key, value := range s.view.Scan(s.next, nil) {
			if len(b) >= chunkTargetBytes {
				s.next, more = append([]byte(nil), key...), true
				break
			}
			b = s.enc.row(b, key, value)
			rows++
		}
		if err := s.view.Err(); err != nil {
			return nil, err
		}
		if !more {
			s.state = streamDone
			if rows == 0 {
				return s.enc.end(b[:0]), nil
			}
			b = s.enc.finish(b, rows)
			return s.enc.end(b), nil
		}
		return s.enc.finish(b, rows), nil
	}
	return nil, nil
}

// Close implements io.Closer.
func (s *snapshotStream) Close() error {
	s.fsm.swap.RLock()
	defer s.fsm.swap.RUnlock()
	s.fsm.apply.Lock()
	defer s.fsm.apply.Unlock()
	s.releaseLocked()
	return nil
}

// releaseLocked gives the view back, once. The caller holds swap and apply, or
// swap for writing.
func (s *snapshotStream) releaseLocked() {
	if s.view != nil {
		s.view.Release()
		s.view = nil
	}
	delete(s.fsm.streams, s)
}

// abortStreams ends all outgoing snapshots. The caller holds swap for writing.
func (f *fsm) abortStreams() {
	for s := range f.streams {
		s.releaseLocked()
	}
}

// batchRows adapts rows to a storage.Batch.
func batchRows(b *storage.Batch, rows []storage.Row) *storage.Batch {
	b.Reset()
	for _, r := range rows {
		b.Put(r.Key, r.Value)
	}
	return b
}
