package voter_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

// walls are wall clocks of the voters of one cluster, each off by so much.
type walls map[string]*atomic.Int64

func newWalls(ids []string) walls {
	w := walls{}
	for _, id := range ids {
		w[id] = new(atomic.Int64)
	}
	return w
}

func (w walls) now(id string) time.Time { return time.Now().Add(time.Duration(w[id].Load())) }

func (w walls) tune(cfg *voter.Config) {
	id := cfg.NodeID
	cfg.Wall = func() time.Time { return w.now(id) }
	cfg.AskWall = func(_ context.Context, node string) (time.Time, error) { return w.now(node), nil }
}

// label is how far the label of a new write is ahead of the true time.
func (cl *client) label(key string) time.Duration {
	cl.c.t.Helper()
	a := cl.do(put(key, "x"))
	if err := a.Refused(); err != nil {
		cl.c.t.Fatal(err)
	}
	return time.Until(time.UnixMilli(a.GetTime().GetPhysicalMs()))
}

// A leader whose wall clock jumps labels on as before, and says so; what a
// majority of the voters has is taken, also at the beginning of a term.
func TestLabelsFollowTheMajority(t *testing.T) {
	const limit, day = 30 * time.Second, 24 * time.Hour
	w := newWalls(three)
	c := newCluster(t, three, w.tune)
	cl := c.client()
	leader := c.leader()
	w[leader.id].Store(int64(day))
	if off := cl.label("k"); off.Abs() > limit {
		t.Fatalf("the leader's clock is a day ahead, and so are its labels: %v", off)
	}
	if s := leader.v.Load().Status().WallClock; s.Trusted || !strings.Contains(s.Problem, "ahead of") || (s.Offset-day).Abs() > limit {
		t.Errorf("the leader says %+v", s)
	}
	// The next one is a year off when it begins, and back in time.
	next := c.followers(leader)[0]
	w[next.id].Store(-365 * int64(day))
	w[leader.id].Store(0)
	if err := leader.v.Load().TransferLeadership(t.Context(), next.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other leads", func() bool { return next.v.Load().Status().Serving })
	before := cl.label("k")
	if before.Abs() > limit {
		t.Errorf("the new leader's clock is a year behind, and its labels off by %v", before)
	}
	if s := next.v.Load().Status().WallClock; !strings.Contains(s.Problem, "behind") {
		t.Errorf("the new leader says %+v", s)
	}
	if s := leader.v.Load().Status().WallClock; !s.Trusted || s.Problem != "" {
		t.Errorf("one that does not lead says %+v", s)
	}
	// Now two of three agree on another time: that is the time.
	w[next.id].Store(int64(day))
	w[leader.id].Store(int64(day))
	eventually(t, "the labels follow the majority", func() bool { return (cl.label("k") - day).Abs() < limit })
	if s := next.v.Load().Status().WallClock; !s.Trusted {
		t.Errorf("in step with the majority the leader says %+v", s)
	}
}

// A time just ahead of the labels is waited for by them, and not by the wall clock.
func TestReadAheadOfLabelsWithAWildClock(t *testing.T) {
	w := newWalls(three)
	c := newCluster(t, three, w.tune)
	cl := c.client()
	cl.put("k", "1")
	leader := c.leader()
	w[leader.id].Store(int64(24 * time.Hour))
	at := time.Now().Add(12 * time.Hour).UnixMilli()
	a := cl.do(&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
		Keys: []*replication.GetKey{{Durability: persistent, Key: "k"}}, AsOf: &replication.Timestamp{PhysicalMs: at}}}})
	if value(t, a) != "1" || a.GetTime().GetPhysicalMs() >= at {
		t.Errorf("a read as of half a day ahead has brought the labels there: %v", a)
	}
}
