package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/localapi/client"
)

// A voter's data directory is copied to another host, whichever of the two runs
// first: the second one ends with one line, before it has a part in the quorum, and
// the cluster goes on.
func TestACopiedDataDirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, 0)
	original, copied := f.hosts[1], f.hosts[3]
	copiedAddress := copied.cfg.Bind
	for _, h := range f.hosts[:3] {
		f.start(h)
	}
	for _, h := range f.hosts[:3] {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == "h1=voter h2=voter h3=voter" })
	}
	original.stop()
	if err := os.CopyFS(copied.cfg.DataDir, os.DirFS(original.cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	ends := func(h *host, elsewhere string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o := h.options
		o.Ready = func() {}
		err := agent.Run(ctx, h.cfg, o)
		var unusable *agent.UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), elsewhere) || !strings.Contains(err.Error(), h.cfg.DataDir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s ends with %v", h.name, err)
		}
	}
	works := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := f.hosts[0].client.KVSet(ctx, "k", []byte("v"), client.WriteOptions{}); err != nil {
			t.Errorf("the cluster: %v", err)
		}
	}
	began := time.Now()
	f.start(original)
	f.await("the original votes, and not only since now", func() bool { // of two that begin at once either ends
		s, err := original.client.Status(t.Context())
		return err == nil && s.Ready && s.Role == "voter" && time.Since(began) > time.Second &&
			f.roles(f.hosts[0]) == "h1=voter h2=voter h3=voter"
	})
	ends(copied, original.cfg.Bind)
	works()
	original.stop()
	began = time.Now()
	f.start(copied) // it is the same node for the others, which has moved
	f.await("the copy votes", func() bool {
		s, err := copied.client.Status(t.Context())
		return err == nil && s.Ready && s.Role == "voter" && time.Since(began) > time.Second
	})
	ends(original, copiedAddress)
	works()
	if _, err := os.Stat(filepath.Join(original.cfg.DataDir, "membership.json")); err != nil {
		t.Error(err)
	}
}
