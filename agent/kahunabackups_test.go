package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// kept is a directory with n backups, as Kahuna's service sees it.
func kept(t *testing.T, n int) kahunaBackups {
	t.Helper()
	dir, err := backup.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		_, err := dir.Take(t.Context(), func(_ context.Context, out io.Writer) error {
			w, err := backup.NewWriter(out, backup.Header{ID: fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", i),
				Created: time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC)})
			if err != nil {
				return err
			}
			_, err = w.Close(statemachine.BackupSummary{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return kahunaBackups{&backups{a: &agent{cfg: config.Config{Backup: config.Backup{Keep: 1}}}, dir: dir}}
}

func TestKahunaBackups(t *testing.T) {
	ctx := t.Context()
	k := kept(t, 2)
	list, err := k.List(ctx)
	if err != nil || len(list) != 2 || list[0].ID >= list[1].ID || list[0].Actual != "Full" {
		t.Fatalf("%+v, %v", list, err)
	}
	id := list[0].ID
	chain, err := k.Chain(ctx, id, true)
	if err != nil || len(chain) != 1 || chain[0].ID != id || chain[0].Invalid != "" {
		t.Errorf("%+v, %v", chain, err)
	}
	all, err := k.b.dir.List()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(all[0].Path, all[0].SizeBytes-1); err != nil {
		t.Fatal(err)
	}
	if chain, err = k.Chain(ctx, id, true); err != nil || chain[0].Invalid == "" {
		t.Errorf("a damaged one: %+v, %v", chain, err)
	}
	for name, c := range map[string]struct {
		err  error
		want kahuna.BackupOutcome
	}{
		"an unknown chain":  {second(k.Chain(ctx, "none", false)), kahuna.BackupCorruptChain},
		"an unknown parent": {second(k.Take(ctx, "none")), kahuna.BackupParentMissing},
		"a restore":         {second(k.Restore(ctx, id, "/tmp/x", 0)), kahuna.BackupNotConfigured},
	} {
		var known *kahuna.BackupError
		if !errors.As(c.err, &known) || known.Outcome != c.want {
			t.Errorf("%s: %v, want %s", name, c.err, c.want)
		}
	}
	for _, dry := range []bool{true, false} {
		got, err := k.Collect(ctx, dry)
		if err != nil || got.Applied == dry || len(got.Deleted) != 1 || got.Deleted[0].ID != id || got.ReclaimedBytes == 0 {
			t.Errorf("dry %v: %+v, %v", dry, got, err)
		}
	}
	if list, err = k.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if (&backups{}).forKahuna() != nil {
		t.Error("backups without a directory")
	}
}

func second[T any](_ T, err error) error { return err }
