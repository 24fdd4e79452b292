package statemachine_test

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// model says in the simplest words what the machine must answer: maps, lists,
// and everything that is due ended at once. It shares no code with the machine
// and stores nothing.
type model struct {
	clock    int64 // ns
	label    modelTime
	sessions map[string]*modelSession
	locks    map[string]*modelLock
	keys     map[string][]modelRevision
	seqs     map[string]*modelSequence
	granted  []string // in this entry
}

type modelTime struct {
	ms      int64
	counter uint32
}

type modelSession struct {
	end, ttl  int64
	ended     int64 // lease clock, -1 while it lives
	watermark uint64
	receipts  map[uint64]string
}

type modelLock struct {
	owner, session string // session "" is a lease of its own
	end            int64
	held           bool
	token          int64
	queue          []modelWaiter
}

type modelWaiter struct{ owner, session string }

type modelRevision struct {
	number  int64
	value   []byte // nil: null or a tombstone
	tomb    bool
	end     int64 // 0: never; of a tombstone: since when
	written modelTime
	gone    bool // not kept
}

type modelSequence struct {
	current, increment, revision int64
	maximum                      *int64
	keys                         []modelKey
}

type modelKey struct {
	key                         string
	start, end, count, revision int64
	at                          int64
}

func newModel() *model {
	return &model{sessions: map[string]*modelSession{}, locks: map[string]*modelLock{},
		keys: map[string][]modelRevision{}, seqs: map[string]*modelSequence{}}
}

const modelMS = int64(1_000_000)
const modelDay = 24 * 3600 * 1000 * modelMS

// entry carries out the requests of an entry that begins with a sweep of
// everything.
func (w *model) entry(clock, wallMS int64, reqs []*replication.Request) []string {
	w.clock = max(w.clock, clock)
	w.granted = nil
	for id, s := range w.sessions {
		if s.ended < 0 && s.end <= w.clock {
			w.endSession(id)
		}
	}
	w.endDue()
	var out []string
	for _, r := range reqs {
		if wallMS > w.label.ms {
			w.label = modelTime{wallMS, 0}
		} else {
			w.label.counter++
		}
		out = append(out, w.once(r))
	}
	return out
}

func (w *model) endDue() {
	for id, s := range w.sessions {
		if s.ended >= 0 && s.ended+modelDay <= w.clock {
			delete(w.sessions, id)
		}
	}
	for _, l := range w.locks {
		if l.held && l.session == "" && l.end <= w.clock {
			l.held = false
		}
		w.next(l)
	}
	for k, revs := range w.keys {
		h := &revs[len(revs)-1]
		if !h.tomb && h.end != 0 && h.end <= w.clock {
			h.tomb, h.value = true, nil
		}
		if h.tomb && h.end+modelDay <= w.clock {
			delete(w.keys, k)
		}
	}
}

func (w *model) endSession(id string) {
	w.sessions[id].ended = w.clock
	for _, l := range w.locks {
		l.queue = slices.DeleteFunc(l.queue, func(q modelWaiter) bool { return q.session == id })
		if l.held && l.session == id {
			l.held, l.owner = false, ""
		}
	}
	for _, l := range w.locks {
		w.next(l)
	}
}

// next gives a lock that nobody holds to the first whose session lives. Those of
// sessions that ended in the same entry are still to be taken out.
func (w *model) next(l *modelLock) {
	for !l.held && len(l.queue) > 0 {
		q := l.queue[0]
		l.queue = l.queue[1:]
		if s := w.sessions[q.session]; s == nil || s.ended >= 0 || s.end <= w.clock {
			continue
		}
		l.held, l.owner, l.session = true, q.owner, q.session
		l.token++
		w.granted = append(w.granted, fmt.Sprintf("%s %d", q.owner, l.token))
	}
}

func (w *model) live(id []byte) *modelSession {
	if s := w.sessions[string(id)]; s != nil && s.ended < 0 {
		return s
	}
	return nil
}

func (w *model) once(r *replication.Request) string {
	if !r.TakesReceipt() {
		return w.do(r)
	}
	s := w.live(r.Session)
	if s == nil || r.Number < s.watermark {
		return "UNKNOWN_OUTCOME"
	}
	s.watermark = max(s.watermark, min(r.DoneBelow, r.Number))
	if a, ok := s.receipts[r.Number]; ok {
		return a
	}
	s.receipts[r.Number] = w.do(r)
	return s.receipts[r.Number]
}

func (w *model) do(r *replication.Request) string {
	switch op := r.Op.(type) {
	case *replication.Request_Sweep:
		return "OK"
	case *replication.Request_SessionOpen:
		id, ttl := string(op.SessionOpen.Id), op.SessionOpen.TtlMs*modelMS
		s := w.sessions[id]
		if s == nil {
			s = &modelSession{ended: -1, receipts: map[uint64]string{}}
			w.sessions[id] = s
		}
		if s.ended >= 0 {
			return "SESSION_LOST"
		}
		s.ttl, s.end = ttl, max(s.end, w.clock+ttl)
		return "OK"
	case *replication.Request_SessionRenew:
		s := w.live(op.SessionRenew.Id)
		if s == nil {
			return "SESSION_LOST"
		}
		s.end = max(s.end, w.clock+s.ttl)
		holds := w.holds(string(op.SessionRenew.Id))
		var hash uint64
		for _, h := range holds {
			owner, _, _ := strings.Cut(h, " ")
			hash ^= replication.HoldHash([]byte(owner))
		}
		if op.SessionRenew.HoldHash == hash && int(op.SessionRenew.HoldCount) == len(holds) {
			return "OK"
		}
		return "OK " + strings.Join(holds, ", ")
	case *replication.Request_SessionClose:
		if w.live(op.SessionClose.Id) == nil {
			return "SESSION_LOST"
		}
		w.endSession(string(op.SessionClose.Id))
		return "OK"
	case *replication.Request_Write:
		return w.write(op.Write)
	case *replication.Request_SequenceCreate, *replication.Request_SequenceNext, *replication.Request_SequenceDelete:
		return w.sequence(r)
	}
	return w.lock(r)
}

// holds lists what a session has, sorted.
func (w *model) holds(id string) (out []string) {
	for _, l := range w.locks {
		if l.held && l.session == id {
			out = append(out, fmt.Sprintf("%s granted %d", l.owner, l.token))
		}
		for i, q := range l.queue {
			if q.session == id {
				out = append(out, fmt.Sprintf("%s queued %d", q.owner, i+1))
			}
		}
	}
	sort.Strings(out)
	return out
}

func (w *model) lockOf(name string) *modelLock {
	if w.locks[name] == nil {
		w.locks[name] = &modelLock{token: -1}
	}
	return w.locks[name]
}

func (l *modelLock) place(owner string) int {
	return slices.IndexFunc(l.queue, func(q modelWaiter) bool { return q.owner == owner })
}

func (w *model) lock(r *replication.Request) string {
	switch op := r.Op.(type) {
	case *replication.Request_LockTry:
		l := w.lockOf(op.LockTry.Name)
		switch {
		case l.held && l.owner == string(op.LockTry.Owner):
		case l.held || len(l.queue) > 0:
			return "BUSY"
		default:
			l.held, l.owner, l.session, l.end = true, string(op.LockTry.Owner), "", w.clock+op.LockTry.TtlMs*modelMS
			l.token++
		}
		return fmt.Sprintf("OK granted %d", l.token)
	case *replication.Request_LockWait:
		return w.wait(op.LockWait)
	case *replication.Request_LockCancel:
		l := w.lockOf(op.LockCancel.Name)
		if i := l.place(string(op.LockCancel.Owner)); i >= 0 {
			l.queue = slices.Delete(l.queue, i, i+1)
			return "OK"
		}
		return "NOT_FOUND"
	case *replication.Request_LockExtend:
		l := w.lockOf(op.LockExtend.Name)
		switch {
		case !l.held:
			return "NOT_FOUND"
		case l.owner != string(op.LockExtend.Owner):
			return "INVALID_OWNER"
		}
		l.end = max(l.end, w.clock+op.LockExtend.TtlMs*modelMS)
		return fmt.Sprintf("OK granted %d", l.token)
	case *replication.Request_LockUnlock:
		l, owner := w.lockOf(op.LockUnlock.Name), string(op.LockUnlock.Owner)
		i := l.place(owner)
		switch {
		case l.owner == owner:
			l.held, l.owner = false, ""
			w.next(l)
			return "OK"
		case i >= 0:
			l.queue = slices.Delete(l.queue, i, i+1)
			return "OK"
		case l.owner == "":
			return "NOT_FOUND"
		}
		return "INVALID_OWNER"
	case *replication.Request_LockBreak:
		l := w.lockOf(op.LockBreak.Name)
		if !l.held {
			return "NOT_FOUND"
		}
		old := l.owner
		l.held, l.owner = false, ""
		w.next(l)
		return "OK " + old
	}
	panic(fmt.Sprintf("the model does not know %v", r))
}

func (w *model) wait(op *replication.LockWait) string {
	if w.live(op.Session) == nil {
		return "SESSION_LOST"
	}
	l, owner, id := w.lockOf(op.Name), string(op.Owner), string(op.Session)
	i := l.place(owner)
	switch {
	case l.held && l.owner == owner:
		if l.session != id {
			return "INVALID_OWNER"
		}
	case i >= 0:
		if l.queue[i].session != id {
			return "INVALID_OWNER"
		}
		return fmt.Sprintf("OK queued %d", i+1)
	case !l.held && len(l.queue) == 0:
		l.held, l.owner, l.session, l.end = true, owner, id, 0
		l.token++
	case op.NoQueue:
		return "BUSY"
	default:
		l.queue = append(l.queue, modelWaiter{owner, id})
		return fmt.Sprintf("OK queued %d", len(l.queue))
	}
	return fmt.Sprintf("OK granted %d", l.token)
}

func (w *model) write(op *replication.Write) string {
	saved := make(map[string][]modelRevision)
	for k, v := range w.keys {
		saved[k] = slices.Clone(v)
	}
	var out []string
	failed := ""
	for _, item := range op.Items {
		code, number := w.item(item)
		out = append(out, fmt.Sprintf("%s %d", code, number))
		if code != "OK" && failed == "" {
			failed = code
		}
	}
	switch {
	case failed != "" && op.Atomic:
		w.keys = saved
		return failed
	case failed != "" && len(op.Items) == 1:
		return out[0]
	}
	return "OK " + strings.Join(out, ", ")
}

func (w *model) item(item *replication.WriteItem) (code string, number int64) {
	key := fmt.Sprint(int(item.Durability), item.Key)
	revs := w.keys[key]
	h := modelRevision{number: -1, tomb: true}
	if len(revs) > 0 {
		h = revs[len(revs)-1]
	}
	if item.IfExists && h.tomb || item.IfNotExists && !h.tomb ||
		item.IfRevision && item.CompareRevision != h.number ||
		item.IfValue && !bytes.Equal(h.value, item.CompareValue) {
		return "CONDITION_FAILED", h.number
	}
	if h.tomb && item.Kind != replication.WriteKind_WRITE_KIND_SET {
		return "NOT_FOUND", h.number
	}
	next := modelRevision{number: h.number + 1, value: item.Value, written: w.label}
	if item.ExpiresMs > 0 {
		next.end = w.clock + item.ExpiresMs*modelMS
	}
	switch item.Kind {
	case replication.WriteKind_WRITE_KIND_EXTEND:
		revs[len(revs)-1].end = next.end
		return "OK", h.number
	case replication.WriteKind_WRITE_KIND_DELETE:
		next.value, next.tomb, next.end = nil, true, w.clock
	}
	if item.Kind == replication.WriteKind_WRITE_KIND_SET && item.NoHistory && len(revs) > 0 {
		revs[len(revs)-1].gone = true
	}
	keep := int64(16)
	if item.Durability == replication.Durability_DURABILITY_PERSISTENT {
		keep = 1000
	}
	revs = append(slices.Clone(revs), next)
	for i := range revs {
		if revs[i].number < next.number-keep {
			revs[i].gone = true
		}
	}
	w.keys[key] = revs
	return "OK", next.number
}

func (w *model) sequence(r *replication.Request) string {
	switch op := r.Op.(type) {
	case *replication.Request_SequenceCreate:
		c := op.SequenceCreate
		if w.seqs[c.Name] != nil {
			return "EXISTS"
		}
		w.seqs[c.Name] = &modelSequence{current: c.Initial, increment: c.Increment, maximum: c.Maximum}
		return "OK"
	case *replication.Request_SequenceDelete:
		if w.seqs[op.SequenceDelete.Name] == nil {
			return "NOT_FOUND"
		}
		delete(w.seqs, op.SequenceDelete.Name)
		return "OK"
	}
	n := r.GetSequenceNext()
	s := w.seqs[n.Name]
	if s == nil {
		return "NOT_FOUND"
	}
	for _, k := range s.keys {
		if n.IdempotencyKey != "" && k.key == n.IdempotencyKey {
			if k.count != n.Count {
				return "KEY_REUSED"
			}
			return fmt.Sprintf("OK %d to %d at %d, replayed", k.start, k.end, k.revision)
		}
	}
	k := modelKey{n.IdempotencyKey, s.current + s.increment, s.current + s.increment*n.Count, n.Count, s.revision, w.clock}
	if s.maximum != nil && k.end > *s.maximum {
		return "EXHAUSTED"
	}
	s.current = k.end
	s.revision++
	if n.IdempotencyKey != "" {
		s.keys = append(s.keys, k)
		s.keys = slices.DeleteFunc(s.keys, func(k modelKey) bool { return k.at+600_000*modelMS <= w.clock })
	}
	return fmt.Sprintf("OK %d to %d at %d", k.start, k.end, k.revision)
}

// summary is an answer of the machine in the words of the model.
func summary(r *replication.Request, a *replication.Answer) string {
	code := strings.TrimPrefix(a.Code.String(), "CODE_")
	if w := a.GetWritten(); w != nil {
		var items []string
		for _, i := range w.Items {
			items = append(items, fmt.Sprintf("%s %d", strings.TrimPrefix(i.Code.String(), "CODE_"), i.Revision))
		}
		switch {
		case a.Code != replication.Code_CODE_OK && r.GetWrite().GetAtomic():
			return code
		case a.Code != replication.Code_CODE_OK:
			return items[0]
		}
		return "OK " + strings.Join(items, ", ")
	}
	if a.Code != replication.Code_CODE_OK {
		return code
	}
	switch {
	case a.GetLockGrant().GetGranted():
		return fmt.Sprintf("OK granted %d", a.GetLockGrant().Token)
	case a.GetLockGrant() != nil:
		return fmt.Sprintf("OK queued %d", a.GetLockGrant().Position)
	case a.GetLock() != nil:
		return "OK " + string(a.GetLock().Owner)
	case a.GetAllocation() != nil:
		l := a.GetAllocation()
		s := fmt.Sprintf("OK %d to %d at %d", l.Start, l.End, l.Revision)
		if l.Replayed {
			s += ", replayed"
		}
		return s
	case a.GetSession().GetHoldsListed():
		return "OK " + strings.Join(holdList(a.GetSession().Holds), ", ")
	}
	return code
}

func holdList(holds []*replication.SessionHold) (out []string) {
	for _, h := range holds {
		if h.Granted {
			out = append(out, fmt.Sprintf("%s granted %d", h.Owner, h.Token))
		} else {
			out = append(out, fmt.Sprintf("%s queued %d", h.Owner, h.Position))
		}
	}
	sort.Strings(out)
	return out
}
