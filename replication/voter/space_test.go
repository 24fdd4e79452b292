package voter_test

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

// Every change is judged on purpose: what keeps leases alive and what frees room
// goes on with a full disk. Reads and internal commands are never judged.
func TestWhatNeedsRoom(t *testing.T) {
	want := map[string]string{
		"session_open": "none", "session_renew": "none", "session_close": "none",
		"lock_try": "lock", "lock_wait": "lock", "lock_cancel": "none", "lock_extend": "none", "lock_unlock": "none",
		"lock_break": "none", "lock_detach": "none",
		"write":           "none", // of nothing; see below
		"sequence_create": "data", "sequence_next": "data", "sequence_update": "data", "sequence_delete": "none",
		"tx_start": "data", "tx_lock": "data", "tx_unlock": "none", "tx_read": "none", "tx_write": "data",
		"tx_end":                "none", // a rollback; see below
		"script":                "data",
		"snapshot_hold_acquire": "data", "snapshot_hold_renew": "none", "snapshot_hold_release": "none", "key_space_set": "data",
	}
	ops := (&replication.Request{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	for i := range ops.Len() {
		field := ops.Get(i)
		req := &replication.Request{}
		m := req.ProtoReflect()
		m.Set(field, protoreflect.ValueOfMessage(m.NewField(field).Message()))
		if req.IsRead() || req.IsInternal() {
			continue
		}
		name := string(field.Name())
		if got := voter.NeedsRoom(req); got != want[name] {
			t.Errorf("%s needs %q, want %q: say in space.go and here what it needs", name, got, want[name])
		}
	}
	write := func(kinds ...replication.WriteKind) *replication.Request {
		w := &replication.Write{}
		for _, k := range kinds {
			w.Items = append(w.Items, &replication.WriteItem{Kind: k})
		}
		return &replication.Request{Op: &replication.Request_Write{Write: w}}
	}
	const set, del = replication.WriteKind_WRITE_KIND_SET, replication.WriteKind_WRITE_KIND_DELETE
	for _, c := range []struct {
		req  *replication.Request
		want string
	}{
		{write(del, del), "none"}, {write(set), "data"}, {write(del, set), "data"},
		{&replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{Commit: true}}}, "data"},
	} {
		if got := voter.NeedsRoom(c.req); got != c.want {
			t.Errorf("%v needs %q, want %q", c.req, got, c.want)
		}
	}
}
