package membership_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/membership"
)

// FuzzMembers sends any message of another agent to one that waits for its cluster
// and to one that is a quorum: a stranger with the secret may be wrong, and older
// or newer, but it panics nobody, and what is stored can be read again.
func FuzzMembers(f *testing.F) {
	w := newWorld(f)
	f.TempDir() // the first one decides when all are removed: when the keepers have stopped
	f.Cleanup(w.stop)
	w.add("waits", 3, "x").start()
	w.add("serves", 1).start()
	w.add("z", 3) // who asks, and never runs
	w.await(20*time.Second, "one votes", func() bool { return w.allVote("serves") })
	marshal := func(m interface{ MarshalVT() ([]byte, error) }) []byte {
		b, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	self := &link.Peer{Node: "z", Name: "host-z", Address: "z.test:7700", Role: link.Role_ROLE_VOTER}
	f.Add(byte(0), true, marshal(&link.Hello{Self: self, FeatureLevel: 1, WallMs: 1}))
	f.Add(byte(1), true, marshal(&link.JoinRequest{Self: self, Cluster: "c", FeatureLevel: 1}))
	f.Add(byte(2), true, marshal(&link.LeaveRequest{Cluster: "c"}))
	f.Add(byte(3), true, marshal(&link.PledgeRequest{Cluster: "c", Members: []*link.Peer{{Node: "waits"}, {Node: "x"}, self}}))
	f.Add(byte(4), false, marshal(&link.ChangeRequest{Cluster: "c", Kind: link.ChangeRequest_KIND_DEMOTE, Node: "serves"}))
	f.Add(byte(5), true, marshal(&link.VoteRequest{Cluster: "c", Take: true, Operator: true}))
	f.Fuzz(func(t *testing.T, kind byte, voter bool, b []byte) {
		from := link.Identity{Node: "z", Voter: voter}
		for _, node := range []string{"waits", "serves"} {
			h := w.hosts[node]
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			deliver(ctx, h.keeper, from, kind, b)
			cancel()
			_ = h.keeper.Status()
			readable(t, node, h.config)
		}
	})
}

// deliver hands the message to the keeper, as link does, if b is one. That it is
// refused is right as well. "c" stands for the cluster, whose id is random.
func deliver(ctx context.Context, k *membership.Keeper, from link.Identity, kind byte, b []byte) {
	known := func(cluster *string) {
		if *cluster == "c" {
			*cluster = k.Status().Cluster
		}
	}
	switch kind % 6 {
	case 0:
		if m := new(link.Hello); m.UnmarshalVT(b) == nil {
			known(&m.Cluster)
			_, _ = k.Hello(ctx, from, m)
		}
	case 1:
		if m := new(link.JoinRequest); m.UnmarshalVT(b) == nil {
			known(&m.Cluster)
			_ = k.Join(ctx, from, m)
		}
	case 2:
		if m := new(link.LeaveRequest); m.UnmarshalVT(b) == nil {
			known(&m.Cluster)
			_ = k.Leave(ctx, from, m)
		}
	case 3:
		if m := new(link.PledgeRequest); m.UnmarshalVT(b) == nil {
			_, _ = k.Pledge(ctx, from, m)
		}
	case 4:
		if m := new(link.ChangeRequest); m.UnmarshalVT(b) == nil {
			known(&m.Cluster)
			_ = k.Change(ctx, from, m)
		}
	case 5:
		if m := new(link.VoteRequest); m.UnmarshalVT(b) == nil {
			known(&m.Cluster)
			_ = k.Vote(ctx, from, m)
		}
	}
}

// readable opens a copy of what the host has stored.
func readable(t *testing.T, node string, c membership.Config) {
	t.Helper()
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(c.Dir, file.Name()))
		if err != nil {
			continue // replaced meanwhile
		}
		if err := os.WriteFile(filepath.Join(copied, file.Name()), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.Dir = copied
	if _, err := membership.Open(c); err != nil {
		t.Fatalf("what %s has stored cannot be read again: %v", node, err)
	}
}
