package localapi

import (
	"fmt"
	"math"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// admission judges one request for the quorum, whichever way it came: may this
// caller do it to these names, and is it within the limits of kahu's own
// surface. What is not listed in admit is refused.
type admission struct {
	server *Server
	who    *caller.Caller
}

func (a admission) need(verb policy.Verb, name string) error {
	if a.server.cfg.Policy.Allows(a.who, verb, name) {
		return nil
	}
	return wire.Refuse(wire.Denied, fmt.Sprintf("the policy of this agent does not let you %s %.200q", verb, name))
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return wire.Refuse(wire.Invalid, err.Error())
}

func invalidf(format string, args ...any) error {
	return wire.Refuse(wire.Invalid, fmt.Sprintf(format, args...))
}

// named: the name is in order, and the caller may.
func (a admission) named(verb policy.Verb, what, name string) error {
	if err := wire.CheckName(what, name); err != nil {
		return invalid(err)
	}
	return a.need(verb, name)
}

func (a admission) listed(what, prefix string) error {
	if err := wire.CheckPrefix(what, prefix); err != nil {
		return invalid(err)
	}
	return a.need(policy.Read, prefix)
}

// stored is named for what may have been named by others.
func (a admission) stored(verb policy.Verb, what, name string) error {
	if err := wire.CheckStoredName(what, name); err != nil {
		return invalid(err)
	}
	return a.need(verb, name)
}

// The operations of the stream, as metrics and logs name them.
const (
	opUnknown = "unknown"
)

// admit returns the operation's name, and why it is refused.
func (a admission) admit(req *replication.Request) (string, error) {
	if len(req.GetSession()) > 0 || req.GetNumber() != 0 || req.GetDoneBelow() != 0 {
		return opUnknown, invalidf("request ids are given by the agent")
	}
	if req.GetStale() && !req.IsRead() {
		return opUnknown, invalidf("only reads can be stale")
	}
	switch op := req.GetOp().(type) {
	case *replication.Request_LockTry, *replication.Request_LockExtend, *replication.Request_LockUnlock,
		*replication.Request_LockBreak, *replication.Request_LockGet, *replication.Request_LockList:
		return a.admitLock(req)
	case *replication.Request_Write:
		return "write", a.write(op.Write)
	case *replication.Request_Get, *replication.Request_Range, *replication.Request_History:
		return a.admitRead(req)
	case *replication.Request_SequenceCreate, *replication.Request_SequenceNext, *replication.Request_SequenceUpdate,
		*replication.Request_SequenceDelete, *replication.Request_SequenceGet, *replication.Request_SequenceList:
		return a.admitSequence(req)
	case *replication.Request_SnapshotHoldAcquire, *replication.Request_SnapshotHoldRenew, *replication.Request_SnapshotHoldRelease,
		*replication.Request_SnapshotFloorGet, *replication.Request_KeySpaceSet, *replication.Request_KeySpaceList:
		return a.admitHistory(req)
	case *replication.Request_Script:
		return "script", a.script(op.Script)
	case *replication.Request_TxStart, *replication.Request_TxRead, *replication.Request_TxWrite, *replication.Request_TxLock,
		*replication.Request_TxUnlock, *replication.Request_TxEnd, *replication.Request_TxList:
		return a.admitTransaction(req)
	case *replication.Request_MachineGet:
		if !a.server.cfg.Policy.AllowsSomewhere(a.who, policy.Read) {
			return "machine_get", a.need(policy.Read, "")
		}
		return "machine_get", nil
	case *replication.Request_SessionGet:
		return "session_get", a.need(policy.Admin, "")
	case nil:
		return opUnknown, invalidf("the request asks for nothing this agent knows")
	default:
		return opUnknown, wire.Refuse(wire.Denied, "this operation is not for applications; holds are opened with a hold request")
	}
}

func (a admission) admitLock(req *replication.Request) (string, error) {
	var d replication.Durability
	var name string
	var err error
	switch op := req.GetOp().(type) {
	case *replication.Request_LockTry:
		name, d, err = "lock_try", op.LockTry.GetDurability(), a.named(policy.Lock, "lock name", op.LockTry.GetName())
		err = first(err, ownerAndTTL(op.LockTry.GetOwner(), op.LockTry.GetTtlMs()))
	case *replication.Request_LockExtend:
		name, d, err = "lock_extend", op.LockExtend.GetDurability(), a.named(policy.Lock, "lock name", op.LockExtend.GetName())
		err = first(err, ownerAndTTL(op.LockExtend.GetOwner(), op.LockExtend.GetTtlMs()))
	case *replication.Request_LockUnlock:
		name, d, err = "lock_unlock", op.LockUnlock.GetDurability(), a.named(policy.Lock, "lock name", op.LockUnlock.GetName())
		err = first(err, invalid(wire.CheckOwner(op.LockUnlock.GetOwner())))
	case *replication.Request_LockBreak:
		name, d, err = "lock_break", op.LockBreak.GetDurability(), a.stored(policy.Admin, "lock name", op.LockBreak.GetName())
	case *replication.Request_LockGet:
		name, d, err = "lock_get", op.LockGet.GetDurability(), a.stored(policy.Read, "lock name", op.LockGet.GetName())
	case *replication.Request_LockList:
		name, d, err = "lock_list", op.LockList.GetDurability(), a.listed("prefix", op.LockList.GetPrefix())
	}
	return name, first(err, knownDurability(d))
}

func (a admission) admitRead(req *replication.Request) (string, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_Get:
		keys := op.Get.GetKeys()
		if len(keys) == 0 || len(keys) > wire.MaxItems {
			return "get", invalidf("a read has 1 to %d keys, and this one %d", wire.MaxItems, len(keys))
		}
		for _, k := range keys {
			if err := first(a.named(policy.Read, "key", k.GetKey()), knownDurability(k.GetDurability())); err != nil {
				return "get", err
			}
		}
		return "get", nil
	case *replication.Request_Range:
		return "range", first(a.listed("prefix", op.Range.GetPrefix()), knownDurability(op.Range.GetDurability()))
	case *replication.Request_History:
		return "history", first(a.named(policy.Read, "key", op.History.GetKey()), knownDurability(op.History.GetDurability()))
	}
	return opUnknown, nil
}

func (a admission) admitSequence(req *replication.Request) (string, error) {
	const what = "sequence name"
	switch op := req.GetOp().(type) {
	case *replication.Request_SequenceCreate:
		err := a.named(policy.Sequence, what, op.SequenceCreate.GetName())
		if c := op.SequenceCreate; err == nil { // the quorum decides the same, with an entry in the log
			if p := replication.ProblemOfSequence(c.GetIncrement(), c.Maximum, c.BlockSize, c.GetInitial()); p != "" {
				err = invalidf("%s", p)
			}
		}
		return "sequence_create", err
	case *replication.Request_SequenceNext:
		err := a.named(policy.Sequence, what, op.SequenceNext.GetName())
		if err == nil && len(op.SequenceNext.GetIdempotencyKey()) > wire.MaxIdempotencyKeyBytes {
			err = invalidf("the idempotency key has %d bytes, and the limit is %d", len(op.SequenceNext.GetIdempotencyKey()), wire.MaxIdempotencyKeyBytes)
		}
		if err == nil && op.SequenceNext.GetCount() <= 0 {
			err = invalidf("the count %d must be above zero", op.SequenceNext.GetCount())
		}
		return "sequence_next", err
	case *replication.Request_SequenceUpdate:
		return "sequence_update", a.named(policy.Sequence, what, op.SequenceUpdate.GetName())
	case *replication.Request_SequenceDelete:
		return "sequence_delete", a.named(policy.Sequence, what, op.SequenceDelete.GetName())
	case *replication.Request_SequenceGet:
		return "sequence_get", a.named(policy.Read, what, op.SequenceGet.GetName())
	case *replication.Request_SequenceList:
		return "sequence_list", a.listed("prefix", op.SequenceList.GetPrefix())
	}
	return opUnknown, nil
}

// admitHistory judges snapshot holds, which keep history on disk for everybody,
// and key spaces, which are names for groups of keys.
func (a admission) admitHistory(req *replication.Request) (string, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_SnapshotHoldAcquire:
		return "snapshot_hold", first(invalid(wire.CheckName("holder", op.SnapshotHoldAcquire.GetHolder())),
			checkTTLms(op.SnapshotHoldAcquire.GetLeaseMs()), a.anywhere(policy.Write))
	case *replication.Request_SnapshotHoldRenew:
		return "snapshot_renew", first(checkTTLms(op.SnapshotHoldRenew.GetLeaseMs()), a.anywhere(policy.Write))
	case *replication.Request_SnapshotHoldRelease:
		return "snapshot_release", a.anywhere(policy.Write)
	case *replication.Request_SnapshotFloorGet:
		return "snapshot_floor", a.anywhere(policy.Read)
	case *replication.Request_KeySpaceSet:
		return "key_space_set", a.named(policy.Write, "key space", op.KeySpaceSet.GetName())
	case *replication.Request_KeySpaceList:
		return "key_space_list", a.anywhere(policy.Read)
	}
	return opUnknown, nil
}

// anywhere is need for what has no name: the verb on anything at all.
func (a admission) anywhere(verb policy.Verb) error {
	if a.server.cfg.Policy.AllowsSomewhere(a.who, verb) {
		return nil
	}
	return wire.Refuse(wire.Denied, fmt.Sprintf("the policy of this agent does not let you %s here", verb))
}

func (a admission) write(w *replication.Write) error {
	items := w.GetItems()
	if len(items) == 0 || len(items) > wire.MaxItems {
		return invalidf("a write has 1 to %d keys, and this one %d", wire.MaxItems, len(items))
	}
	for _, i := range items {
		if err := first(a.named(policy.Write, "key", i.GetKey()), knownDurability(i.GetDurability())); err != nil {
			return err
		}
		if ms := i.GetExpiresMs(); ms != 0 {
			if err := checkTTLms(ms); err != nil {
				return err
			}
		}
		if n := int64(len(i.GetValue())); n > a.server.cfg.MaxValueBytes {
			return wire.Refuse(wire.TooLarge, fmt.Sprintf("the value has %d bytes, and the limit is %d", n, a.server.cfg.MaxValueBytes))
		}
	}
	return nil
}

func ownerAndTTL(owner []byte, ttlMS int64) error {
	return first(invalid(wire.CheckOwner(owner)), checkTTLms(ttlMS))
}

func checkTTLms(ms int64) error {
	const fits = int64(math.MaxInt64 / time.Millisecond) // more would overflow as nanoseconds
	return invalid(wire.CheckTTL(time.Duration(min(max(ms, -fits), fits)) * time.Millisecond))
}

func knownDurability(d replication.Durability) error {
	if d == replication.Durability_DURABILITY_EPHEMERAL || d == replication.Durability_DURABILITY_PERSISTENT {
		return nil
	}
	return invalidf("the durability %d is unknown", d)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
