package holds

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// How an agent takes up the holds of the one before it, which was restarted,
// upgraded or killed.
//
// The lease table names each hold, its session and its witnesses, from before the
// quorum was asked for it until after the quorum has nothing of it any more. So
// what the quorum has and the table does not, was told to nobody.
//
//   - A session is renewed, never opened again. The first renewal counts when the
//     quorum's list is here, and the list wins: what is not in it is lost; what is in
//     it and not in the table is released.
//   - A process that the table names is found again by pid and start time, under
//     the same boot and in the same namespaces. One that lives is a witness as
//     before, and one that does not has ended. A hold without living witnesses is
//     released as if they had ended now.
//   - What another boot has written is left alone, its session with it, and ends
//     by its lease. It may be this host before it was rebooted. It may as well be
//     another host, on which the holders run: the volume was attached here, or the
//     disk was copied, and that agent may even be keeping them still. So is what is
//     in a copy of the data directory on this host.
//   - Where nobody can tell (a client's connection, a process in another pid
//     namespace) the hold is an orphan. It is kept for one TTL. Who takes it up
//     meanwhile by its id, which nobody else knows, goes on as before. After that
//     every deadline has passed that its holder can have been told, and it is
//     released.
//
// Nobody is told a new deadline before the quorum has acknowledged a renewal of
// this agent's own. Until then the old ones hold, at the holders.

// resume opens the table and takes up what is in it. Called by New.
func (h *Holds) resume() error {
	t, records, damaged, err := openTable(h.cfg.TablePath, h.cfg.Logger)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.table, h.place = t, placeOf(filepath.Dir(h.cfg.TablePath))
	sessions, left := map[string]*session{}, 0
	for _, r := range records {
		if len(r.Session) != replication.SessionIDBytes {
			t.forget(r.ID)
			continue
		}
		if r.BootID != h.cfg.BootID || r.Place != "" && r.Place != h.place {
			left++
			t.forget(r.ID)
			continue
		}
		s := sessions[string(r.Session)]
		if s == nil {
			s = h.resumeSession(r.Session, time.Duration(r.TTLMS)*time.Millisecond)
			sessions[string(r.Session)] = s
			if damaged {
				h.strayAfter = max(h.strayAfter, h.cfg.LeaseNow()+s.ttl)
			}
		}
		h.resumeHold(s, r)
	}
	if h.cfg.Adopt != nil {
		for _, s := range sessions {
			h.cfg.Adopt(s.id, s.ttl, s.remembered())
		}
	}
	if left > 0 {
		h.cfg.Logger.Info("holds of another boot, host or data directory are left to their lease", "holds", left)
	}
	if n := len(h.byID); n > 0 {
		h.cfg.Logger.Info("taking up holds again", "holds", n, "sessions", len(sessions))
	}
	return nil
}

// remembered is everything that may hang from a session that is taken up. mu is held.
func (s *session) remembered() []*replication.SessionHold {
	out := make([]*replication.SessionHold, 0, len(s.holds))
	for _, o := range s.holds {
		out = append(out, &replication.SessionHold{Owner: []byte(o.id), Name: o.lock, Durability: o.durability})
	}
	return out
}

// resumeSession goes on with a session that was opened before. mu is held.
func (h *Holds) resumeSession(id []byte, ttl time.Duration) *session {
	before := h.sessions[ttl]
	s := h.newSession(ttl, 0)
	s.id, s.resumed = id, true // before its first renewal, which waits for mu
	if before != nil {
		h.sessions[ttl] = before // one TTL, two sessions: new holds go to the first
	}
	return s
}

// resumeHold goes on with one hold. mu is held.
func (h *Holds) resumeHold(s *session, r record) {
	o := &hold{
		h: h, s: s, id: r.ID, lock: r.Lock, durability: replication.Durability_DURABILITY_PERSISTENT,
		witness: localapi.Witness(r.Witness), grace: time.Duration(r.GraceMS) * time.Millisecond,
		treeEnds: r.TreeEnds, lastEnds: r.LastEnds, pidfds: len(r.Processes), needAck: r.NeedAck, noQueue: r.NoQueue, resume: r.Resume,
		info: &replication.HolderInfo{Host: r.Host, Node: r.Node, Pid: r.PID, Uid: r.UID, Command: r.Command, Reason: r.Reason, Contain: r.Contain},
		over: make(chan struct{}), acked: r.Acked, recorded: s, processes: r.Processes, group: r.Group, bootID: r.BootID, restored: true,
		waitUntil: time.Duration(r.WaitUntilNS),
	}
	if r.Ephemeral {
		o.durability = replication.Durability_DURABILITY_EPHEMERAL
	}
	o.handle = &handle{o: o, closed: true}
	h.byID[o.id] = o
	s.holds[o.id] = o
	h.charge(o)
	if o.witness == localapi.WitnessConnection {
		o.orphaned()
		return
	}
	o.findWitnesses(r.Namespaces)
}

// findWitnesses looks for the processes of a hold. mu is held.
func (o *hold) findWitnesses(space string) {
	h := o.h
	var kept []*os.File
	if h.cfg.Pidfds != nil {
		kept = h.cfg.Pidfds.Take(o.id)
	}
	if len(kept) == 0 && space != h.space {
		o.orphaned()
		return
	}
	live, group := splitGroup(kept)
	unknown, last := false, o.lastEnds
	if len(kept) == 0 {
		group = o.group.reopen()
		for i, p := range o.processes {
			f, err := p.reopen()
			if last && err == nil && f == nil && i == len(o.processes)-1 {
				o.deadOnes, o.treeEnds, last = true, true, false
			}
			if err != nil {
				h.cfg.Logger.Debug("a witness was not found again", "lock", o.lock, "hold", o.id, "error", err)
				unknown = true
			}
			if f != nil {
				live = append(live, f)
			}
		}
	}
	nobody := len(live) == 0 || last && len(live) == 1 // PID 1 of its namespace is no sign of life
	switch {
	case unknown:
		closeAll(append(live, group.files()...))
		o.orphaned()
	case o.deadOnes, nobody && group == nil:
		closeAll(append(live, group.files()...))
		o.deadOnes = true
	default:
		if err := h.watchWitnesses(o, live, group); err != nil {
			h.cfg.Logger.Warn("a process cannot be watched", "lock", o.lock, "hold", o.id, "error", err)
			closeAll(append(live, group.files()...))
			o.orphaned()
		} else if nobody {
			o.endGroup() // the guard ended while no agent ran, and its command may not have
		}
	}
}

// orphaned gives the holder one lease to come back. mu is held.
func (o *hold) orphaned() {
	o.orphan = true
	stopTimer(o.orphanTime)
	o.orphanTime = o.after(o.s.ttl, func() {
		if !o.handle.closed {
			o.orphaned() // it is there, and only its end would not be seen
			return
		}
		o.endStory(true, ReasonNotTakenUp)
		o.end(unlock, ReasonNotTakenUp)
	})
}

// takenUp takes note that the holder has come back, with pidfds of its witnesses
// if it is a process hold. mu is held.
func (o *hold) takenUp(files []*os.File) {
	pidfds, group := splitGroup(files)
	switch {
	case o.state != gone && o.witnesses != nil && o.witnesses.group == nil && group != nil:
		// Its processes were found again, and their group could not be opened.
		closeAll(pidfds)
		o.h.watchGroup(o.witnesses, group)
	case o.state == gone || o.witness != localapi.WitnessProcess || o.witnesses != nil || len(pidfds) == 0:
		closeAll(files) // those of Open are watched, or nothing is left to be watched
	default:
		if err := o.h.watchWitnesses(o, pidfds, group); err != nil {
			o.h.cfg.Logger.Warn("a process cannot be watched", "lock", o.lock, "hold", o.id, "error", err)
			closeAll(files)
		}
	}
	if o.orphan && (o.witness == localapi.WitnessConnection || o.witnesses != nil) {
		o.orphan = false
		stopTimer(o.orphanTime)
	}
}

// takeUp settles every hold of a session that was resumed with the quorum's
// first list. mu is held.
func (s *session) takeUp(list []page) {
	type news struct {
		*replication.SessionHold
		index uint64
	}
	listed := make(map[string]news)
	for _, p := range list {
		for _, sh := range p.holds {
			listed[string(sh.GetOwner())] = news{sh, p.index}
		}
	}
	for id, o := range s.holds {
		if !o.restored {
			continue // opened since
		}
		sh, ok := listed[id]
		if !ok {
			o.notListed()
			continue
		}
		o.restored = false
		// Who was not asked for an ack may have been shown the grant.
		o.told = sh.GetGranted() && (o.acked || !o.needAck)
		o.learn(sh.GetGranted(), sh.GetToken(), sh.GetPosition(), sh.index)
		if o.deadOnes {
			o.witnessesEnded()
		}
		o.goOnWaiting()
	}
	for id, sh := range listed {
		if s.holds[id] == nil {
			s.learn(sh.SessionHold, sh.index)
		}
	}
}

// notListed ends a hold that the quorum does not have, or asks for it again when
// nobody can be running under it: the agent before may have been killed before it
// had asked. mu is held.
func (o *hold) notListed() {
	o.restored = false
	if o.acked || !o.needAck || o.deadOnes || o.orphan || o.intent != keep {
		o.gone(reasonNotThere)
		return
	}
	o.startOver()
	o.ask()
	o.goOnWaiting()
}

// goOnWaiting bounds the rest of the time in line. mu is held.
func (o *hold) goOnWaiting() {
	if o.state < granted && o.waitUntil != 0 && o.intent == keep {
		o.startWaiting(max(o.waitUntil-o.h.cfg.Boottime(), 0))
	}
}

// outlives reports whether the next agent can go on with the hold. mu is held.
func (o *hold) outlives() bool {
	if o.h.table == nil {
		return o.state == granted && o.witness == localapi.WitnessProcess
	}
	return o.witness == localapi.WitnessProcess || o.resume
}

// remember puts a hold into the table, under session s. mu is not held.
func (h *Holds) remember(o *hold, s *session) error {
	if h.table == nil {
		return nil
	}
	h.mu.Lock()
	if o.recorded == s || o.state == gone {
		h.mu.Unlock()
		return nil
	}
	r := o.record(s)
	h.mu.Unlock()
	if err := h.table.put(r); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o.recorded = s
	if o.state == gone { // meanwhile, and was not in the table yet
		h.table.forget(o.id)
	}
	return nil
}

// rememberAck notes that the holder may be running. mu is not held.
func (h *Holds) rememberAck(o *hold) error {
	if h.table == nil || !o.needAck {
		return nil
	}
	h.mu.Lock()
	if o.acked {
		h.mu.Unlock()
		return nil
	}
	r := o.record(o.s)
	h.mu.Unlock()
	r.Acked = true
	return h.table.put(r)
}

// forget takes a hold out of the table that the quorum has nothing of any more,
// and keeps its last word for a connection that has not come back yet. mu is held.
func (h *Holds) forget(o *hold) {
	if h.table == nil {
		return
	}
	h.table.forget(o.id)
	if h.cfg.Pidfds != nil && len(o.processes) > 0 {
		h.cfg.Pidfds.Forget(o.id)
	}
	if o.handle.closed && o.recorded != nil && o.recorded.resumed && !h.closing && !o.deadOnes {
		h.ended[o.id] = o
		time.AfterFunc(o.s.ttl, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.ended, o.id)
		})
	}
}

// record is what the table shall have of the hold. mu is held.
func (o *hold) record(s *session) record {
	r := record{
		ID: o.id, Session: s.id, TTLMS: s.ttl.Milliseconds(), Lock: o.lock,
		Ephemeral: o.durability == replication.Durability_DURABILITY_EPHEMERAL,
		Witness:   string(o.witness), GraceMS: o.grace.Milliseconds(), TreeEnds: o.treeEnds, LastEnds: o.lastEnds, NeedAck: o.needAck,
		NoQueue: o.noQueue, Resume: o.resume, Acked: o.acked, WaitUntilNS: o.waitUntil.Nanoseconds(),
		BootID: o.bootID, Place: o.h.place, Namespaces: o.h.space, Processes: o.processes, Group: o.group,
	}
	if i := o.info; i != nil {
		r.Host, r.Node, r.PID, r.UID, r.Command, r.Reason, r.Contain = i.GetHost(), i.GetNode(), i.GetPid(), i.GetUid(), i.GetCommand(), i.GetReason(), i.GetContain()
	}
	return r
}

// placeOf tells a directory from its copies: the inode, and when it was made. It
// outlives renaming and mounting anew. Empty: it cannot be told.
func placeOf(dir string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
}
