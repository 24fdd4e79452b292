package statemachine_test

import (
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// txRequest reads what follows the name of a transaction in a scenario:
//
//	set|delete|extend FIELD=VALUE… ; …   one TxWrite
//	get key=K …   range|bucket FIELD=VALUE…
//	lock [kind=prefix|range] key=K … ; …   all in one TxLock; unlock alike
//	commit   rollback
//
// "as=COORDINATOR" and "op=NAME" stand anywhere; "ephemeral" in an item.
func (w *world) txRequest(req *replication.Request, id *replication.Timestamp, rest string) {
	w.t.Helper()
	ref := &replication.TxRef{Id: id}
	var words []string
	for _, f := range strings.Fields(rest) {
		if v, ok := strings.CutPrefix(f, "op="); ok {
			ref.Operation = sid(v)
		} else if v, ok := strings.CutPrefix(f, "as="); ok {
			ref.CoordinatorKey = v
		} else {
			words = append(words, f)
		}
	}
	word, rest, _ := strings.Cut(strings.Join(words, " "), " ")
	switch word {
	case "set", "delete", "extend":
		op := &replication.TxWrite{Tx: ref}
		for _, part := range strings.Split(word+" "+rest, ";") {
			kind, fields, _ := strings.Cut(strings.TrimSpace(part), " ")
			item := &replication.WriteItem{Kind: replication.WriteKind(replication.WriteKind_value["WRITE_KIND_"+strings.ToUpper(kind)])}
			w.fill(req, item.ProtoReflect(), fields)
			op.Items = append(op.Items, item)
		}
		req.Op = &replication.Request_TxWrite{TxWrite: op}
	case "get":
		op, k := &replication.TxRead{Tx: ref}, new(replication.GetKey)
		w.fill(req, k.ProtoReflect(), rest, op.ProtoReflect())
		op.Keys = append(op.Keys, k)
		req.Op = &replication.Request_TxRead{TxRead: op}
	case "range", "bucket":
		op := &replication.TxRead{Tx: ref, Range: &replication.Range{Bucket: word == "bucket"}}
		w.fill(req, op.Range.ProtoReflect(), rest, op.ProtoReflect())
		req.Op = &replication.Request_TxRead{TxRead: op}
	case "lock":
		req.Op = &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: ref, Locks: w.txLocks(req, rest)}}
	case "unlock":
		req.Op = &replication.Request_TxUnlock{TxUnlock: &replication.TxUnlock{Tx: ref, Locks: w.txLocks(req, rest)}}
	case "commit", "rollback":
		req.Op = &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Tx: ref, Commit: word == "commit"}}
	default:
		w.t.Fatalf("%q: no such operation of a transaction", word)
	}
}

func (w *world) txLocks(req *replication.Request, rest string) (out []*replication.TxLockItem) {
	w.t.Helper()
	for _, part := range strings.Split(rest, ";") {
		l := new(replication.TxLockItem)
		var fields []string
		for _, f := range strings.Fields(part) {
			if kind, ok := strings.CutPrefix(f, "kind="); ok {
				l.Kind = replication.TxLockKind(replication.TxLockKind_value["TX_LOCK_KIND_"+strings.ToUpper(kind)])
				continue
			}
			fields = append(fields, f)
		}
		w.fill(req, l.ProtoReflect(), strings.Join(fields, " "))
		out = append(out, l)
	}
	return out
}
