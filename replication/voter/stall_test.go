package voter_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/voter"
)

// counting counts how often a message is logged.
type counting struct {
	slog.Handler
	message string
	n       *atomic.Int64
}

func (c counting) Enabled(context.Context, slog.Level) bool { return true }

func (c counting) Handle(_ context.Context, r slog.Record) error {
	if r.Message == c.message {
		c.n.Add(1)
	}
	return nil
}

// A voter whose disk hangs could not store a vote, and so promises none: whoever
// asks would begin a term for nothing, and again, and be in the way of the voter
// that the others would elect.
func TestVoterWhoseDiskHangsPromisesNoVote(t *testing.T) {
	refused := &atomic.Int64{}
	c, disks := withDisks(t, three, func(cfg *voter.Config) {
		cfg.StallAfter = 200 * time.Millisecond
		cfg.Logger = slog.New(counting{slog.DiscardHandler, "promising no vote: the log could not store one", refused})
	})
	cl := c.client()
	cl.put("k", "before")
	old := c.leader()
	followers := c.followers(old)
	asking, gone := followers[0], followers[1]
	gone.stop(time.Second)
	term := asking.v.Load().Status().Term
	disks[old.id].hang()
	s := cl.start(old, "k", "pending")
	defer s.cancel()
	// Without the third voter nobody can be elected.
	eventually(t, "it is asked for its vote, and refuses", func() bool {
		if now := asking.v.Load().Status().Term; now != term {
			t.Fatalf("the other voter began term %d after %d, with %d refusals: it was promised a vote that could not be given", now, term, refused.Load())
		}
		return refused.Load() >= 3
	})
	disks[old.id].goOn(nil)
	cl.put("k", "after")
	if got := cl.get("k"); got != "after" {
		t.Errorf("k is %q", got)
	}
}
