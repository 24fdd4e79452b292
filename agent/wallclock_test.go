package agent_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// A leader whose host's clock jumps by a day gives no time of that day, and says
// in its status what is the matter.
func TestWildWallClock(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	f := newFleet(t, 3, 0)
	wall := make([]atomic.Int64, len(f.hosts))
	for i, h := range f.hosts {
		h.options.Wall(func() time.Time { return time.Now().Add(time.Duration(wall[i].Load())) })
	}
	f.startAll()
	leader := func() (int, wire.Status) {
		for i, h := range f.hosts {
			if s, err := h.client.Status(t.Context()); err == nil && s.Voter != nil && s.Voter.Serving {
				return i, s
			}
		}
		return -1, wire.Status{}
	}
	at := -1
	f.await("one leads", func() bool { at, _ = leader(); return at >= 0 })
	wall[at].Store(int64(day))
	var said *wire.WallClock
	f.await("the leader says that its clock does not count", func() bool {
		_, s := leader()
		if s.Voter != nil {
			said = s.Voter.WallClock
		}
		return said != nil
	})
	if !strings.Contains(said.Problem, "24h0m0s ahead") || said.AheadMS < day.Milliseconds()-60_000 {
		t.Errorf("the status has %+v", said)
	}
	if _, err := f.hosts[at].client.KVSet(t.Context(), "k", []byte("v"), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	e, err := f.hosts[at].client.KVGet(t.Context(), "k", client.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	modified, err := time.Parse(time.RFC3339, e.Modified)
	if err != nil || time.Until(modified) > time.Hour {
		t.Errorf("the key was changed at %q: %v", e.Modified, err)
	}
	wall[at].Store(0)
	f.await("the clock was put right", func() bool {
		_, s := leader()
		return s.Voter != nil && s.Voter.WallClock == nil
	})
}
