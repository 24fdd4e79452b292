package statemachine

import (
	"bytes"

	"github.com/kahu-sh/kahu/replication"
)

// holderEnd is when the holder's lease ends, and whether it is live, on a view.
// sessions remembers the ends of those already read.
func (v *view) holderEnd(l *lock, sessions map[sessionID]session) (end int64, live bool) {
	if l.stage != lockHeld {
		return 0, false
	}
	if !l.hangs {
		return l.end, v.live(l.end)
	}
	s, ok := sessions[l.session]
	if !ok {
		s, _ = loadSession(v, l.session)
		sessions[l.session] = s
	}
	switch {
	case s.stage == sessionLive && v.live(s.end):
		return max(s.end, l.end), true
	case s.closed:
		return 0, false
	}
	return l.end, v.live(l.end) // extended by hand beyond its session's end
}

func (v *view) lockGet(c *command, op *replication.LockGet) {
	if p := first(problemOfDurability(op.GetDurability()), problemOfName("the lock's name", op.GetName())); p != "" {
		c.invalid(p)
		return
	}
	l := readLock(v, op.Durability, op.Name)
	end, live := v.holderEnd(&l, map[sessionID]session{})
	if !live {
		c.refuse(replication.Code_CODE_NOT_FOUND, textFree)
		return
	}
	d := l.describe(v.remainingMS(end))
	limit := min(int(op.QueueLimit), replication.MaxPageRows)
	p := newPage(0)
	for _, w := range readQueue(v, &l, limit) {
		shown := &replication.Waiter{Owner: w.owner, Session: bytes.Clone(w.session[:]), Info: describeInfo(w.info, 0)}
		if !p.take(shown.SizeVT(), len(d.Queue) == 0) {
			break
		}
		d.Queue = append(d.Queue, shown)
	}
	c.answer.Result = &replication.Answer_Lock{Lock: d}
}

func (v *view) lockList(c *command, op *replication.LockList) {
	if p := problemOfDurability(op.GetDurability()); p != "" {
		c.invalid(p)
		return
	}
	from, to := nameBounds([]byte{tableLock, byte(op.Durability)}, op.Prefix, op.After)
	sessions := make(map[sessionID]session)
	out := new(replication.Locks)
	p := newPage(int64(op.Limit))
	for key, row := range v.Scan(from, to) {
		name, _, ok := cutName(key[2:])
		l, ok2 := decodeLock(row)
		if !ok || !ok2 {
			panic(damaged(key, "a lock"))
		}
		l.durability, l.name = op.Durability, name
		end, live := v.holderEnd(&l, sessions)
		if !live {
			continue
		}
		d := l.describe(v.remainingMS(end))
		if !p.take(d.SizeVT(), len(out.Locks) == 0) {
			out.More = true
			break
		}
		out.Locks = append(out.Locks, d)
	}
	c.answer.Result = &replication.Answer_Locks{Locks: out}
}
