package agent_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
)

// A host whose advertised address reaches nobody gets no vote: with it the one voter
// that there is would need an answer which never comes.
func TestWhoCannotBeReachedGetsNoVote(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, 0)
	only, unreached := f.hosts[0], f.hosts[1]
	only.cfg.BootstrapExpect, only.cfg.Join = 1, []string{only.cfg.Bind}
	unreached.cfg.Join = only.cfg.Join
	unreached.cfg.BootstrapExpect, unreached.cfg.Advertise, unreached.cfg.Role = 0, freeAddress(t), "voter"
	f.start(only)
	write := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := only.client.KVSet(ctx, "k", []byte("v"), client.WriteOptions{})
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	unreached.client, f.hosts = nil, f.hosts[:2]
	f.start(unreached)
	f.await("it says what keeps it from voting, or votes", func() bool {
		s, err := unreached.client.Status(t.Context())
		return err == nil && (strings.Contains(s.NotReady, unreached.cfg.Advertise) || s.Ready)
	})
	if err := write(); err != nil {
		t.Errorf("the only voter cannot decide any more: %v", err)
	}
}
