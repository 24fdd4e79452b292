package voter_test

import (
	"os"
	"path/filepath"
	"testing"
)

// A voter comes back with its disk as it was before what it has acknowledged since: the
// leader says so. It says nothing of one that was only restarted.
func TestADiskThatWasSetBackIsNoticed(t *testing.T) {
	for tries := 0; ; tries++ {
		if tries == 10 {
			t.Fatal("another voter led each time: this shows nothing")
		}
		if setBack(t) {
			return
		}
	}
}

// setBack reports whether one voter led all the time.
func setBack(t *testing.T) bool {
	c := newCluster(t, three, nil)
	cl := c.client()
	cl.put("k", "before")
	leader := c.leader()
	term := leader.v.Load().Status().Term
	f := c.followers(leader)[0]
	forgot := func() []string { return leader.v.Load().Status().Forgetful }
	caughtUp := func() {
		eventually(t, "it has what the leader has", func() bool {
			return f.v.Load().Status().AppliedIndex >= leader.v.Load().Status().AppliedIndex
		})
	}
	caughtUp()
	f.stop(0)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	f.start()
	cl.put("k", "acknowledged by all")
	caughtUp()
	f.stop(0)
	f.start()
	cl.put("k", "and after a restart")
	caughtUp()
	if got := forgot(); len(got) > 0 && leader.v.Load().Status().Term == term {
		t.Errorf("%v counts as forgetful, and was only restarted", got)
	}
	f.stop(0)
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(f.dir, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	f.start()
	caughtUp()
	same := leader.v.Load().Status().Serving && leader.v.Load().Status().Term == term
	if got := forgot(); same && (len(got) != 1 || got[0] != f.id) {
		t.Errorf("%v count as forgetful, want %s", got, f.id)
	}
	return same
}
