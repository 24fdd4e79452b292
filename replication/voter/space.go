package voter

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/pace"
)

// A log that meets a full disk ends its voter, so a leader stops taking what
// needs room while there is some left: enough for renewals, releases and deletes,
// and for the log to be cut after them. It looks at its own disk; a follower that
// runs out ends, and comes back when there is room again (HAZARDS.md 10).

const (
	// spaceCheck is how often the room left is looked at.
	spaceCheck = time.Second
	// locksShare of the room that data must leave are kept from new locks as well.
	locksShare = 2
)

// space is what is known of the room left.
type space struct {
	free atomic.Int64 // bytes; -1: not known
}

// watchSpace looks at the room left until stopping is closed. The look itself may
// hang in a sick disk, so it has a goroutine of its own, one at most, which is
// not waited for.
func (v *Voter) watchSpace() {
	tick := time.NewTimer(pace.Next(spaceCheck))
	defer tick.Stop()
	looked := make(chan int64, 1)
	looking, low := false, false
	for {
		if !looking {
			looking = true
			go func() { looked <- v.look() }()
		}
		select {
		case free := <-looked:
			looking = false
			v.space.free.Store(free)
			if now := free >= 0 && free < v.cfg.MinFreeBytes; now != low {
				low = now
				v.tellSpace(low, free)
			}
		case <-v.stopping:
			return
		}
		select {
		case <-tick.C:
			tick.Reset(pace.Next(spaceCheck))
		case <-v.stopping:
			return
		}
	}
}

// look returns the room left, -1 when it cannot be told.
func (v *Voter) look() int64 {
	free, err := v.cfg.FreeBytes()
	if err != nil {
		v.cfg.Logger.Debug("the room left is not known", "error", err)
		return -1
	}
	return free
}

func (v *Voter) tellSpace(low bool, free int64) {
	if low {
		v.cfg.Logger.Error("little space left: writes are refused while this voter leads", "free_bytes", free, "min_free_bytes", v.cfg.MinFreeBytes)
		return
	}
	v.cfg.Logger.Info("there is space again", "free_bytes", free, "min_free_bytes", v.cfg.MinFreeBytes)
}

// refusedForSpace is the answer to what needs more room than there is, else nil.
func (v *Voter) refusedForSpace(req *replication.Request) *replication.Answer {
	free := v.space.free.Load()
	if free < 0 || free >= v.cfg.MinFreeBytes {
		return nil
	}
	need := v.cfg.MinFreeBytes
	switch needsRoom(req) {
	case roomNone:
		return nil
	case roomLock:
		need /= locksShare
	}
	if free >= need {
		return nil
	}
	return &replication.Answer{Code: replication.Code_CODE_LIMIT, Detail: fmt.Sprintf(
		"the disk of the leader has %d MiB left, less than the %d MiB of its min-free: free space there, or delete keys; renewals, releases and deletes go on",
		free>>20, v.cfg.MinFreeBytes>>20)}
}

// room is what a request takes.
type room int

const (
	roomNone room = iota // keeps what is there, or frees some
	roomLock             // a small record
	roomData
)

// needsRoom judges a request. What is not known here needs room.
func needsRoom(req *replication.Request) room {
	switch op := req.GetOp().(type) {
	case *replication.Request_SessionOpen, *replication.Request_SessionRenew, *replication.Request_SessionClose,
		*replication.Request_LockCancel, *replication.Request_LockExtend, *replication.Request_LockUnlock,
		*replication.Request_LockBreak, *replication.Request_LockDetach, *replication.Request_SequenceDelete,
		*replication.Request_TxUnlock, *replication.Request_TxRead, *replication.Request_SnapshotHoldRenew,
		*replication.Request_SnapshotHoldRelease:
		return roomNone
	case *replication.Request_TxEnd:
		if !op.TxEnd.GetCommit() {
			return roomNone
		}
	case *replication.Request_Write:
		for _, item := range op.Write.GetItems() {
			if item.GetKind() != replication.WriteKind_WRITE_KIND_DELETE {
				return roomData
			}
		}
		return roomNone
	case *replication.Request_LockTry, *replication.Request_LockWait:
		return roomLock
	}
	return roomData
}
