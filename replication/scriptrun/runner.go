// Package scriptrun decides how a script is run, and runs it (contract/decisions.md
// 40): one plain command as such, one that only reads on the read path, all
// others in one log entry, and one that sleeps or has used up its fuel as a
// session that this agent drives, with the same evaluator.
//
// A pessimistic script that runs as a session excludes, from its arrival to its
// end, the others of this Runner that need a lock of it: they are Aborted at once,
// and so is a session that comes upon one of those.
//
// The main type is Runner, over any Coordinator. What a script means is written
// in package script, what it may do to the state in package statemachine; who may
// run one is decided by whoever listens.
package scriptrun

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"lukechampine.com/blake3"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

const (
	// cacheBytes bounds the parsed scripts that a Runner remembers.
	cacheBytes = 16 << 20
	// maxSessions bounds the scripts that run as sessions at the same time: each
	// may keep a processor busy until its timeout.
	maxSessions = 256
)

// Runner runs scripts. All methods may be called concurrently.
type Runner struct {
	coordinator replication.Coordinator
	sessions    chan struct{}
	overlap     *overlap

	mu     sync.Mutex // of the three below
	cache  *script.Cache
	hashes map[string]string // BLAKE3-256 in hex → text, of what is in cache
	known  map[string]string // the inverse
}

// Options are how a Runner differs from the plain one.
type Options struct {
	// BucketsExclude aborts the later of two scripts that read one bucket, write,
	// and are under way here at the same time. The log would order them, and
	// each would see all of the one before; but Kahuna aborts one, and a test of
	// its clients expects that (TestWriteSkewAnomaly). For Kahuna's wire alone.
	BucketsExclude bool
}

// New makes a Runner that asks c.
func New(c replication.Coordinator, o Options) *Runner {
	r := &Runner{coordinator: c, sessions: make(chan struct{}, maxSessions), overlap: newOverlap(o.BucketsExclude),
		cache: script.NewCache(cacheBytes), hashes: make(map[string]string), known: make(map[string]string)}
	r.cache.Dropped = func(text string) {
		delete(r.hashes, r.known[text])
		delete(r.known, text)
	}
	return r
}

// Run runs a script and returns its answer, whose result is a ScriptResult: what
// the script itself did wrong is in there, with CODE_OK. Other codes are
// refusals, as of any request. It blocks until the script has ended, which for a
// session is its timeout at the latest, or ctx ends. Errors are those of a
// Coordinator: on ErrUnknownOutcome the script may have taken effect.
func (r *Runner) Run(ctx context.Context, s *replication.Script) (*replication.Answer, error) {
	program, err := r.parse(s)
	if err != nil {
		return answer(script.ParseResult(err)), nil
	}
	options, err := program.Options()
	if err != nil {
		return answer(script.ParseResult(err)), nil
	}
	if len(s.Hash) > 0 || len(s.Text) == 0 {
		s = &replication.Script{Text: []byte(program.Text()), Parameters: s.Parameters, Fuel: s.Fuel, Priority: s.Priority, Yield: s.Yield}
	}
	mode := program.Mode()
	if mode != script.ModeDirect && mode != script.ModeRead && !options.Optimistic && options.SnapshotMS == 0 {
		// A parameter that is missing is found where the script runs.
		locks, _ := program.Locks(script.ParamsOf(s))
		session := mode != script.ModeCommand
		if refused := r.overlap.enter(locks, session); refused != nil {
			return answer(script.Result{Type: script.TypeAborted, Reason: script.LockRefused(*refused)}), nil
		}
		defer r.overlap.leave(locks, session)
	}
	var a *replication.Answer
	switch mode {
	case script.ModeDirect:
		return r.direct(ctx, program, s)
	case script.ModeRead:
		a, err = r.coordinator.Do(ctx, &replication.Request{Op: &replication.Request_ScriptRead{ScriptRead: s}})
	case script.ModeCommand:
		a, err = r.coordinator.Do(ctx, &replication.Request{Op: &replication.Request_Script{Script: s}})
	default:
		return r.session(ctx, program, options, s)
	}
	switch {
	case err != nil:
		return nil, err
	case a.GetCode() == replication.Code_CODE_FUEL_SPENT:
		return r.session(ctx, program, options, s)
	case a.GetCode() == replication.Code_CODE_LOCKED && a.GetScriptResult() != nil:
		// A key was locked for longer than the voter waits: Aborted, with the reason
		// (decisions.md 41).
		a.Code, a.Detail = replication.Code_CODE_OK, ""
	}
	return a, nil
}

// answer is a script's result without a log entry of its own.
func answer(res script.Result) *replication.Answer {
	return &replication.Answer{Result: &replication.Answer_ScriptResult{ScriptResult: res.Message()}}
}

// Hash is the name of a script's text: BLAKE3-256 in lower-case hex, as Kahuna's
// clients send it.
func Hash(text []byte) string {
	sum := blake3.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// parse finds the program of a script. The text decides; the hash is looked at
// only when there is none, and one that nobody knows is as no text at all
// (decisions.md 48).
func (r *Runner) parse(s *replication.Script) (*script.Program, error) {
	text := s.GetText()
	r.mu.Lock()
	if len(text) == 0 {
		text = []byte(r.hashes[nameOf(s.GetHash())])
	}
	p := r.cache.Get(text)
	r.mu.Unlock()
	if p != nil {
		return p, nil
	}
	// Long texts take their time, which is not that of others.
	p, err := script.Parse(string(text))
	if err != nil {
		return nil, err
	}
	hash := Hash(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache.Put(p)
	if r.cache.Has(p.Text()) {
		r.known[p.Text()], r.hashes[hash] = hash, p.Text()
	}
	return p, nil
}

// nameOf accepts a hash as hex or as bytes.
func nameOf(hash []byte) string {
	if len(hash) == 32 {
		return hex.EncodeToString(hash)
	}
	return strings.ToLower(string(hash))
}

// direct runs a script that is one plain command.
func (r *Runner) direct(ctx context.Context, p *script.Program, s *replication.Script) (*replication.Answer, error) {
	store := &plain{ctx: ctx, coordinator: r.coordinator, yield: s.GetYield()}
	res, err := p.Run(store, script.Env{Params: script.ParamsOf(s), Fuel: script.EntryFuel})
	if errors.Is(err, script.ErrFuelSpent) {
		// One command with so long a text that it is dear: nothing was asked yet, or
		// its answer is too large.
		return answer(script.Result{Type: script.TypeErrored, Reason: "The script or its answer is too long for one command at line 1"}), nil
	}
	if err != nil {
		return nil, err
	}
	a := answer(res)
	a.Index, a.Time = store.index, store.time
	return a, nil
}

// plain is the store of a direct script: each operation is a request. Its writes
// have effect at once.
type plain struct {
	ctx         context.Context
	coordinator replication.Coordinator
	yield       bool
	index       uint64
	time        *replication.Timestamp
}

func (p *plain) ask(req *replication.Request) (*replication.Answer, error) {
	a, err := p.coordinator.Do(p.ctx, req)
	if err != nil {
		return nil, err
	}
	p.index, p.time = a.GetIndex(), a.GetTime()
	return a, nil
}

// Get implements script.Store.
func (p *plain) Get(key script.Key, at script.At, withValue bool) (script.Row, error) {
	a, err := p.ask(&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
		Keys: []*replication.GetKey{getKey(key, at)}, KeysOnly: !withValue, AsOf: asOf(at.AsOfMS)}}})
	if err != nil {
		return script.Row{}, err
	}
	return rowOf(key, a)
}

// Range implements script.Store. Scripts that read ranges are never direct.
func (p *plain) Range(script.Range, func(*script.Row) bool) (int, error) {
	panic("scriptrun: a direct script reads a range")
}

// Write implements script.Store.
func (p *plain) Write(item *replication.WriteItem) (script.Written, error) {
	item.Yield = p.yield
	a, err := p.ask(&replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{item}}}})
	if err != nil {
		return script.Written{}, err
	}
	if a.GetCode() == replication.Code_CODE_LOCKED {
		return script.Written{}, &script.AbortError{Reason: a.GetDetail(), MustRetry: true}
	}
	return written(a)
}

// Clock implements script.Store. Scripts that ask for the time are never direct.
func (p *plain) Clock() script.Time { panic("scriptrun: a direct script asks for the time") }

// getKey and asOf translate what state is read: a millisecond as of its end.
func getKey(key script.Key, at script.At) *replication.GetKey {
	k := &replication.GetKey{Durability: key.Durability, Key: key.Name}
	if at.HasRevision {
		k.Revision = &at.Revision
	}
	return k
}

func asOf(ms int64) *replication.Timestamp {
	if ms == 0 {
		return nil
	}
	return &replication.Timestamp{PhysicalMs: ms, Counter: 1<<32 - 1}
}

// refused makes an error of a refusal that ends a script.
func refused(a *replication.Answer) error {
	if a.GetCode() == replication.Code_CODE_TOO_OLD {
		return &script.AbortError{Reason: "snapshot too old: " + a.GetDetail()}
	}
	if a.GetDetail() == "" {
		return &script.AbortError{Reason: a.GetCode().String()}
	}
	return &script.AbortError{Reason: a.GetDetail()}
}

func rowOf(key script.Key, a *replication.Answer) (script.Row, error) {
	if a.GetCode() != replication.Code_CODE_OK {
		return script.Row{}, refused(a)
	}
	entries := a.GetEntries().GetEntries()
	if len(entries) != 1 {
		return script.Row{}, fmt.Errorf("reading key %q gave %d entries", key.Name, len(entries))
	}
	row := entryRow(entries[0])
	row.Key = key.Name
	return row, nil
}

// entryRow translates an entry. A tombstone is not found.
func entryRow(e *replication.Entry) script.Row {
	row := script.Row{Key: e.GetKey(), Found: e.GetFound() && !e.GetDeleted(), Revision: e.GetRevision()}
	if !row.Found {
		if !e.GetFound() {
			row.Revision = -1
		}
		return row
	}
	row.Value, row.Null, row.ExpiresAtMS = e.GetValue(), e.Value == nil, e.GetExpiresAtMs()
	row.Modified = timeOf(e.GetModified())
	return row
}

func timeOf(t *replication.Timestamp) script.Time {
	return script.Time{MS: t.GetPhysicalMs(), Counter: t.GetCounter()}
}

func written(a *replication.Answer) (script.Written, error) {
	items := a.GetWritten().GetItems()
	if len(items) != 1 {
		if a.GetCode() != replication.Code_CODE_OK {
			return script.Written{}, refused(a)
		}
		return script.Written{}, fmt.Errorf("a write gave %d answers", len(items))
	}
	switch i := items[0]; i.GetCode() {
	case replication.Code_CODE_OK, replication.Code_CODE_CONDITION_FAILED, replication.Code_CODE_NOT_FOUND, replication.Code_CODE_INVALID:
		return script.Written{Code: i.GetCode(), Revision: i.GetRevision(), Modified: timeOf(i.GetModified())}, nil
	}
	return script.Written{}, refused(a)
}

// Do implements replication.Coordinator: scripts are run, all else is passed on.
// So whoever asks a Coordinator can ask for a script without knowing how it runs.
func (r *Runner) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if s := req.GetScript(); s != nil {
		return r.Run(ctx, s)
	}
	return r.coordinator.Do(ctx, req)
}

// Watch implements replication.Coordinator.
func (r *Runner) Watch(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	return r.coordinator.Watch(ctx, session, fn)
}

var _ replication.Coordinator = (*Runner)(nil)
