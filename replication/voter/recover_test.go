package voter_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
)

// Only the leader knows who is silent, and for how long.
func TestSilenceOfAVoterThatIsGone(t *testing.T) {
	c := newCluster(t, []string{"a", "b", "c"}, nil)
	leader := c.leader()
	followers := c.followers(leader)
	for _, f := range followers {
		if s := f.v.Load().Silence(); s != nil {
			t.Fatalf("a follower knows of silence: %v", s)
		}
	}
	gone, stays := followers[0], followers[1]
	gone.stop(0)
	eventually(t, "the leader sees who is silent, and only that one", func() bool {
		s := leader.v.Load().Silence()
		return s[gone.id] > 300*time.Millisecond && s[stays.id] < 200*time.Millisecond && s[leader.id] == 0 && len(s) == 3
	})
	gone.start()
	eventually(t, "it is back", func() bool {
		s := leader.v.Load().Silence()
		return s != nil && s[gone.id] < 100*time.Millisecond
	})
}

// A new leader says of whom it has heard nothing yet: who led before is gone, and
// its silence is as short as the term.
func TestUnheardByANewLeader(t *testing.T) {
	c := newCluster(t, []string{"a", "b", "c"}, nil)
	old := c.leader()
	followers := c.followers(old)
	old.stop(0)
	eventually(t, "the next leader has heard one, and not the other", func() bool {
		for _, f := range followers {
			if slices.Equal(f.v.Load().Unheard(), []string{old.id}) {
				return f.v.Load().Silence()[old.id] < 10*time.Second
			}
		}
		return false
	})
	old.start()
	eventually(t, "all are heard", func() bool {
		for _, f := range append(followers, old) {
			if f.v.Load().Silence() != nil {
				return len(f.v.Load().Unheard()) == 0
			}
		}
		return false
	})
}

// recoveredAt is the wall clock of a recovery, recoveredFloor what it makes of it.
var recoveredAt = time.Unix(1_800_000_000, 0)

const recoveredFloor = 1_800_000_000 << 20

// tokenOf takes and gives back a lock.
func tokenOf(cl *client, name string) int64 {
	key := &replication.LockTry{Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: []byte("o"), TtlMs: 1000}
	token := cl.do(&replication.Request{Op: &replication.Request_LockTry{LockTry: key}}).GetLockGrant().GetToken()
	cl.do(&replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{Durability: key.Durability, Name: name, Owner: key.Owner}}})
	return token
}

// Two of three voters are lost with their disks: the third goes on alone with
// everything that was acknowledged, and others join it.
func TestRecoverTheLastVoter(t *testing.T) {
	for _, engine := range []string{"memory", "sqlite"} {
		t.Run(engine, func(t *testing.T) {
			c := newClusterOn(t, engine, []string{"a", "b", "c"}, nil)
			cl := c.client()
			for i := range 20 {
				cl.put(fmt.Sprint("k", i), fmt.Sprint(i))
			}
			if token := tokenOf(cl, "before"); token >= recoveredFloor {
				t.Fatalf("a new cluster gives out token %d", token)
			}
			c.leader()
			a := c.node("a")
			eventually(t, "a has everything", func() bool {
				s := a.v.Load().Status()
				return s.LastIndex > 0 && s.AppliedIndex == c.leader().v.Load().Status().AppliedIndex
			})
			for _, id := range []string{"b", "c", "a"} {
				c.node(id).stop(time.Second)
			}
			recoverAs := func(dryRun bool) (voter.Recovery, error) {
				t.Helper()
				st, err := openDisk(a.dir, engine)
				if err != nil {
					t.Fatal(err)
				}
				defer st.engine.Close()
				return voter.Recover(st, "a", c.logger, voter.RecoverOptions{DryRun: dryRun, Wall: recoveredAt})
			}
			before, err := recoverAs(true)
			if err != nil || before.Done || before.Term == 0 || before.LastIndex < 20 {
				t.Fatalf("%+v, %v", before, err)
			}
			var servers []string
			for _, s := range before.Servers {
				servers = append(servers, s.ID)
			}
			if slices.Sort(servers); !slices.Equal(servers, []string{"a", "b", "c"}) {
				t.Fatalf("the quorum was %v", servers)
			}
			if again, err := recoverAs(true); err != nil || again.LastIndex != before.LastIndex || again.Term != before.Term {
				t.Fatalf("a dry run has changed something: %+v, then %+v, %v", before, again, err)
			}
			if r, err := recoverAs(false); err != nil || !r.Done || r.TokenFloor != recoveredFloor {
				t.Fatalf("%+v, %v", r, err)
			}
			a.start()
			if leader := c.leader(); leader != a {
				t.Fatalf("%s leads", leader.id)
			}
			if s := a.v.Load().Status(); len(s.Peers) != 1 || s.Term <= before.Term {
				t.Fatalf("after recovery: %+v", s)
			}
			for i := range 20 {
				if got := cl.get(fmt.Sprint("k", i)); got != fmt.Sprint(i) {
					t.Fatalf("k%d is %q", i, got)
				}
			}
			cl.put("after", "it")
			for _, name := range []string{"before", "new"} {
				if token := tokenOf(cl, name); token != recoveredFloor+1 {
					t.Errorf("lock %q has token %d after a recovery, its floor is %d", name, token, recoveredFloor)
				}
			}
			d := c.add("d")
			if err := a.v.Load().AddVoter(t.Context(), "d"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "d has everything", func() bool { return d.v.Load().Status().AppliedIndex >= a.v.Load().Status().AppliedIndex })
		})
	}
}

func TestRecoverRefusesWhoWasNeverInAQuorum(t *testing.T) {
	st, err := openDisk(t.TempDir(), "memory")
	if err != nil {
		t.Fatal(err)
	}
	defer st.engine.Close()
	if r, err := voter.Recover(st, "x", slog.New(slog.DiscardHandler), voter.RecoverOptions{DryRun: true}); err == nil {
		t.Fatalf("recovered %+v", r)
	}
}

// A recovery does not raise the feature level above what the agent may know: it would
// not start any more.
func TestRecoverKeepsToTheLevelThatTheAgentMayKnow(t *testing.T) {
	const most = statemachine.CurrentLevel - 1
	c := newCluster(t, []string{"a", "b", "c"}, func(cfg *voter.Config) { cfg.MaxLevel = most })
	c.client().put("k", "v")
	a := c.node("a")
	eventually(t, "a has decided something", func() bool { return a.v.Load().Status().AppliedIndex > 0 })
	for _, id := range []string{"b", "c", "a"} {
		c.node(id).stop(time.Second)
	}
	st, err := openDisk(a.dir, "memory")
	if err != nil {
		t.Fatal(err)
	}
	_, err = voter.Recover(st, "a", c.logger, voter.RecoverOptions{Wall: recoveredAt, MaxLevel: most})
	if err = errors.Join(err, st.engine.Close()); err != nil {
		t.Fatal(err)
	}
	a.start()
	c.leader()
	if s := a.v.Load().Status(); s.Level != most {
		t.Errorf("the level is %d, the agent may know %d", s.Level, most)
	}
}
