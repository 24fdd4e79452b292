package statemachine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/zeebo/xxh3"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// Reader reads rows in order of unsigned bytes. The slices given out by
// Get are valid until the next change of that key, those of a scan until its next
// step. The machine never modifies them.
type Reader interface {
	Get(key []byte) (value []byte, ok bool)
	// Scan yields rows with from <= key < to, ascending; a nil to means to the
	// end. Rows are not changed while a scan runs.
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
	// ScanReverse yields the same rows in descending order.
	ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte]
}

// Store is what the machine keeps its rows in. Reads see earlier changes. The
// store copies what it keeps: keys and values are valid during the call only.
type Store interface {
	Reader
	Put(key, value []byte)
	// PutFresh is Put of a key that has never been in the store.
	PutFresh(key, value []byte)
	Delete(key []byte)
}

// Result is what came of one log entry.
type Result struct {
	// Answers has one answer for each request of the entry, in order.
	Answers []*replication.Answer
	// Events are for the watchers of sessions, in the order they happened.
	Events []SessionEvent
	// Released is set when a transaction gave up locks: what was refused because of
	// them may be asked for again.
	Released bool
	// Diverged is set when this voter must stop: it cannot read the entry
	// (ErrBadEntry, ErrNewer: nothing was changed), one of its rows is damaged
	// (ErrDamaged: the changes of this entry must not be committed), or its state
	// differs from the leader's (ErrDiverged).
	Diverged error
}

// SessionEvent is an event for the watcher of one session.
type SessionEvent struct {
	Session [replication.SessionIDBytes]byte
	Event   *replication.Event
}

// Position says which state a Machine is in.
type Position struct {
	Index        uint64 // last log entry applied, of whatever kind
	Term         uint64 // its term
	LeaseClockNS int64  // L
	Level        uint32 // feature level
	Hash         [16]byte
	OpenedTerm   uint64 // term of the last opening entry applied
	// WallMS and Counter are the last label; those to come are above it.
	WallMS  int64
	Counter uint32
	// Configuration is the last Raft configuration seen, as encoded by the
	// caller, and the index of its entry. It must not be changed.
	Configuration      []byte
	ConfigurationIndex uint64
}

var (
	// ErrDiverged wraps Result.Diverged when this voter's state is not the leader's.
	ErrDiverged = errors.New("the state of this voter differs from the leader's")
	// ErrNewer wraps Result.Diverged and New's error when entry or store were
	// written under rules that this binary does not know.
	ErrNewer = errors.New("written by a newer kahu")
	// ErrFirstLayout is New's error when the store is of the first days, before rows
	// had the layout that every later kahu reads. Nothing is wrong with it.
	ErrFirstLayout = errors.New("written by a kahu from before its formats were kept, whose rows this one cannot read: " +
		"read what is needed with that kahu, and start this one with an empty data directory")
)

// digestsKept is how many past hashes a Machine remembers in memory, to compare
// a leader's digest with its own as of then. An older one is not compared.
const digestsKept = 4096

// rowKept is how much room for building rows is kept from entry to entry.
const rowKept = 1 << 20

// Machine is the deterministic state machine. Its methods are called by one
// goroutine at a time, with the store open for changes.
type Machine struct {
	store Store
	state
	configuration      []byte
	configurationIndex uint64
	tokenFloor         int64  // of a restore or a recovery, else -1
	known              uint32 // highest level whose rules are followed, see Options.MaxLevel

	sessions    sessionTable
	tx          txTable
	pins        pinTable
	scripts     evaluator
	scriptStore scriptStore
	ranged      int // key spaces on record
	heads       [2]headCache
	opened      [2]openedChunk // what this entry has superseded
	dueFloor    int64          // no due row ends before this

	digests [digestsKept]digest

	// Of the entry being applied.
	hasher *xxh3.Hasher
	wallMS int64
	work   int64 // spent on costly commands: see busy
	// released is set when a transaction gave up locks.
	released bool
	events   []SessionEvent
	scratch  []byte // of note
	row      []byte // of whoever builds a row and puts it at once
}

type digest struct {
	index uint64
	hash  [16]byte
}

// Options of NewWith. Nothing in here changes the outcome of an entry that is applied.
type Options struct {
	// MaxLevel makes the machine one that knows no higher feature level: what was
	// written under one is refused, as a binary before this one refuses it. 0, and
	// everything above it, is CurrentLevel.
	MaxLevel uint32
	// HeadCacheEntries bounds the cache of key metadata, for each durability.
	// 0 means 65,536.
	HeadCacheEntries int
}

// KnownLevel is the highest feature level of a binary that is told to know none
// above limit; 0 is no limit.
func KnownLevel(limit uint32) uint32 {
	if limit == 0 {
		return CurrentLevel
	}
	return min(limit, CurrentLevel)
}

// New loads a Machine from store. It reads all sessions, and writes nothing.
func New(store Store) (*Machine, error) { return NewWith(store, Options{}) }

// NewWith is New with options.
func NewWith(store Store, o Options) (m *Machine, err error) {
	defer rescue(&err)
	if o.HeadCacheEntries <= 0 {
		o.HeadCacheEntries = 1 << 16
	}
	m = &Machine{store: store, state: loadState(store), hasher: xxh3.New(), tokenFloor: -1, known: KnownLevel(o.MaxLevel)}
	m.scripts.cache = script.NewCache(scriptCacheBytes)
	if m.level > m.known {
		return nil, fmt.Errorf("%w: the data has feature level %d, this binary knows up to %d: upgrade it", ErrNewer, m.level, m.known)
	}
	if b, ok := store.Get(configKey); ok {
		d := decode(b)
		m.configurationIndex = d.uvarint()
		m.configuration = bytes.Clone(d.bytes())
		if !d.done() {
			panic(damaged(configKey, "the Raft configuration"))
		}
	}
	if b, ok := store.Get(floorKey); ok {
		d := decode(b)
		m.tokenFloor = d.varint()
		if !d.done() {
			panic(damaged(floorKey, "the token floor"))
		}
	}
	for i := range m.heads {
		m.heads[i].limit = o.HeadCacheEntries
	}
	m.loadSessions()
	m.loadTransactions()
	m.loadSnapshotHolds()
	m.countKeySpaces()
	m.dueFloor = m.nextDue(0)
	return m, nil
}

// Position returns where the machine stands.
func (m *Machine) Position() Position {
	return Position{
		Index: m.index, Term: m.term, LeaseClockNS: m.leaseClock, Level: m.level, Hash: m.hash,
		OpenedTerm: m.openedTerm, WallMS: m.label.ms, Counter: m.label.counter,
		Configuration: m.configuration, ConfigurationIndex: m.configurationIndex,
	}
}

// Apply applies one log entry of kahu's own. The caller opens the store before
// and commits it, with index, after; unless Diverged is set. An index that was
// applied before gives an empty Result. Nothing keeps a part of entry.
func (m *Machine) Apply(index, term uint64, entry []byte) (res Result) {
	defer func() {
		if res.Diverged != nil {
			res.Answers, res.Events = nil, nil
		}
	}()
	defer rescue(&res.Diverged)
	if index <= m.index {
		return Result{}
	}
	e, err := DecodeEntry(entry)
	if err == nil {
		err = m.understood(e)
	}
	if err != nil {
		return Result{Diverged: fmt.Errorf("log entry %d: %w", index, err)}
	}
	m.begin(index, term)
	answers := make([]replication.Answer, len(e.Requests))
	res.Answers = make([]*replication.Answer, len(e.Requests))
	for i := range answers {
		answers[i].Index = index
		res.Answers[i] = &answers[i]
	}
	if e.Term != term {
		refuseStale(e, term, res.Answers)
	} else {
		res.Diverged = m.run(e, res.Answers)
	}
	m.finish()
	res.Events, m.events = m.events, nil
	res.Released = m.released
	return res
}

// ApplyOther records an entry that is not kahu's own, so that the applied index
// moves. configuration is nil, or the Raft configuration of the entry, encoded;
// it is kept. It has no part in the rolling hash: what else Raft puts into the
// log is its own business.
func (m *Machine) ApplyOther(index, term uint64, configuration []byte) {
	if index <= m.index {
		return
	}
	m.index, m.term = index, term
	if configuration != nil {
		m.configuration, m.configurationIndex = bytes.Clone(configuration), index
		b := binary.AppendUvarint([]byte{rowFormat}, index)
		m.store.Put(configKey, appendBytes(b, configuration))
	}
	m.savePosition()
}

// understood refuses an entry whose rules this binary does not know, before
// anything of it has had an effect.
func (m *Machine) understood(e *replication.LogEntry) error {
	if e.Level > m.known {
		return fmt.Errorf("%w: feature level %d, this binary knows up to %d: upgrade it", ErrNewer, e.Level, m.known)
	}
	for _, r := range e.Requests {
		if l := r.GetSetLevel().GetLevel(); l > m.known {
			return fmt.Errorf("%w: it raises the feature level to %d, this binary knows up to %d: upgrade it", ErrNewer, l, m.known)
		}
	}
	return nil
}

// refuseStale answers an entry that was stamped in another term than it was
// appended in: what its leader decided beforehand, its clocks above all, no
// longer holds (HAZARDS.md 3).
func refuseStale(e *replication.LogEntry, term uint64, answers []*replication.Answer) {
	for _, a := range answers {
		a.Code = replication.Code_CODE_PROPOSE_AGAIN
		a.Detail = fmt.Sprintf("stamped in term %d, appended in term %d: not applied", e.Term, term)
	}
}

func (m *Machine) begin(index, term uint64) {
	m.released = false
	m.hasher.Reset()
	_, _ = m.hasher.Write(m.hash[:])
	m.scratch = binary.BigEndian.AppendUint64(m.scratch[:0], index)
	_, _ = m.hasher.Write(m.scratch)
	m.index, m.term = index, term
}

// run carries out an entry: time first, then the sessions that are due, then
// the requests in order.
func (m *Machine) run(e *replication.LogEntry, answers []*replication.Answer) error {
	m.leaseClock = max(m.leaseClock, e.LeaseClockNs)
	m.wallMS, m.work = e.WallMs, 0
	m.endDueSessions()
	m.release(releasesPerEntry)
	m.endSnapshotHolds()
	m.endDueTransactions()
	var diverged error
	times := make([]replication.Timestamp, len(answers))
	written := make([]writtenOne, plainWrites(e.Requests))
	for i, req := range e.Requests {
		c := command{req: req, label: m.tick(e.WallMs), answer: answers[i]}
		if isPlainWrite(req) {
			c.one, written = &written[0], written[1:]
		}
		c.answer.Time = &times[i]
		c.label.fill(&times[i])
		if err := m.execute(&c); err != nil && diverged == nil {
			diverged = err
		}
	}
	m.saveReceipts()
	m.saveSessions()
	m.saveTransactions()
	m.saveHistory()
	return diverged
}

// finish closes the rolling hash and writes the machine's row.
func (m *Machine) finish() {
	// The row is hashed with the old hash in it, so that all of the state counts.
	row := m.state.append(m.scratch[:0])
	_, _ = m.hasher.Write(row)
	m.scratch = row
	m.hash = m.hasher.Sum128().Bytes()
	m.savePosition()
}

// savePosition writes the machine's row, and remembers the hash as of its index.
func (m *Machine) savePosition() {
	m.digests[m.index%digestsKept] = digest{m.index, m.hash}
	if cap(m.row) > rowKept {
		m.row = nil // not one large value's room for ever
	}
	m.row = m.state.append(m.row[:0])
	m.store.Put(metaKey, m.row)
}

// put, putFresh and del are the only ways in which apply changes the store:
// every change goes into the rolling hash.
func (m *Machine) put(key, value []byte) {
	m.note('+', key, value)
	m.store.Put(key, value)
}

func (m *Machine) putFresh(key, value []byte) {
	m.note('+', key, value)
	m.store.PutFresh(key, value)
}

func (m *Machine) del(key []byte) {
	m.note('-', key, nil)
	m.store.Delete(key)
}

func (m *Machine) note(op byte, key, value []byte) {
	b := append(m.scratch[:0], op)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	_, _ = m.hasher.Write(b)
	_, _ = m.hasher.Write(value)
	m.scratch = b
}

// emit tells the watcher of a session.
func (m *Machine) emit(id sessionID, e *replication.Event) {
	e.Index = m.index
	m.events = append(m.events, SessionEvent{id, e})
}
