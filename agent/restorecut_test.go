package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
)

// imaging takes a copy of a directory, as a crash would leave it, whenever more of the
// backup is read.
type imaging struct {
	io.Reader
	dir, images string
	taken       int
	err         error
}

func (r *imaging) Read(b []byte) (int, error) {
	r.image()
	return r.Reader.Read(b[:min(len(b), 512)])
}

func (r *imaging) image() {
	if _, err := os.Stat(r.dir); err != nil {
		return
	}
	r.taken++
	r.err = errors.Join(r.err, os.CopyFS(filepath.Join(r.images, string(rune('a'+r.taken%26))+strings.Repeat("x", r.taken/26)), os.DirFS(r.dir)))
}

// A host that ends while a backup is restored does not begin an empty cluster from
// what is there, nor is that taken for an agent's by the next restore.
func TestARestoreThatWasCutShort(t *testing.T) {
	t.Parallel()
	cfg := load(t, func(f *config.File) { f.Bind = freeAddress(t) })
	stop := start(t, cfg)
	local := client.New(client.Options{Socket: cfg.Socket})
	defer local.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, k := range []string{"a", "b", "c"} {
		if _, err := local.KVSet(ctx, k, bytes.Repeat([]byte("v"), 1000), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var file bytes.Buffer
	if _, err := local.Backup(ctx, &file); err != nil {
		t.Fatal(err)
	}
	stop()
	into := filepath.Join(t.TempDir(), "new")
	o := agent.RestoreOptions{DataDir: into, Storage: string(cfg.Storage), Logger: slog.New(slog.DiscardHandler)}
	images := &imaging{Reader: bytes.NewReader(file.Bytes()), dir: into, images: t.TempDir()}
	o.Now = func() time.Time { images.image(); return time.Now() } // when all rows are there
	if _, err := agent.Restore(ctx, images, o); err != nil || images.err != nil {
		t.Fatal(err, images.err)
	}
	all, err := filepath.Glob(filepath.Join(images.images, "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no image was taken: %v", err)
	}
	for _, dir := range all {
		again := o
		again.DataDir = dir
		if _, err := agent.Restore(ctx, bytes.NewReader(file.Bytes()), again); err == nil || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("another restore into it: %v", err)
		}
		next := cfg
		next.DataDir, next.Socket, next.Bind = dir, filepath.Join(t.TempDir(), "s"), freeAddress(t)
		next.Advertise = next.Bind
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := agent.Run(short, next, options(func() {}))
		cancel()
		var unusable *agent.UnusableError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("an agent begins from it: %v", err)
		}
	}
}
