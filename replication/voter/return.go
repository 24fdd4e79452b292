package voter

import (
	"time"

	"github.com/hashicorp/raft"
)

// How a voter that was away comes back.
//
// A request whose answer does not come waits on its connection. When packets pass
// again, TCP sends what was lost only when its timer says so, which it doubles each
// time: after ten seconds that may be ten more. And after each request that fails
// hashicorp/raft 1.8 waits twice as long before the next, up to 10 s, whatever the
// heartbeats say meanwhile, which it sends at least four times a second. So a voter
// that was away for half a minute answers heartbeats, and the leader goes on leading
// by them, and gets no entry for ten seconds: if the third voter goes now, as when
// hosts are restarted one after the other, nothing is decided until then.
//
// Heartbeats and votes have connections of their own here, which are given up after
// what they are good for. When a heartbeat is answered after a silence, the other
// connections to that voter over which nothing goes are closed. And a request that
// failed returns to Raft, which would count it, only then: it counts one.

// replicatesCheck is how often who waits for a voter looks whether that is still of
// use.
const replicatesCheck = time.Second

// awaitPeer blocks until a voter answers, or this one does not send it entries in
// this term any more, or stops. One that has answered lately is not waited for.
func (t *transport) awaitPeer(id raft.ServerID, term uint64) {
	check := time.NewTicker(replicatesCheck)
	defer check.Stop()
	for {
		heard := t.contacts.next(id)
		if last, ok := t.contacts.of(id); ok && time.Since(last.at) <= 2*t.beat.every {
			return
		}
		replicates := t.replicates.Load()
		if replicates == nil || !(*replicates)(id, term) {
			return
		}
		select {
		case <-heard:
			return
		case <-check.C:
		case <-t.stopping.Done():
			return
		}
	}
}

// isBack closes what hangs to a voter that answers again.
func (t *transport) isBack(id raft.ServerID) {
	if t.conns == nil {
		return
	}
	if address, ok := t.address(string(id)); ok {
		t.conns.forget(raft.ServerAddress(address), t.silent/2)
	}
}

// watchReplication says how to know that this voter sends entries to another.
func (t *transport) watchReplication(replicates func(id raft.ServerID, term uint64) bool) {
	t.replicates.Store(&replicates)
}

// replicatesTo reports whether this voter leads in term, with another in its
// configuration.
func (v *Voter) replicatesTo(id raft.ServerID, term uint64) bool {
	if v.raft.State() != raft.Leader || v.raft.CurrentTerm() != term {
		return false
	}
	for _, s := range v.raft.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return true
		}
	}
	return false
}
