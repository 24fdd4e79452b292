package voter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memtable"
)

// pair writes the same value to two keys, in one command.
func pair(value string) *replication.Request {
	w := &replication.Write{Atomic: true}
	for _, key := range []string{"a", "z"} {
		w.Items = append(w.Items, &replication.WriteItem{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: key, Value: []byte(value)})
	}
	return &replication.Request{Op: &replication.Request_Write{Write: w}}
}

// contents lays a store over what a backup restores to.
func contents(t *testing.T, b []byte) (backup.Header, *memtable.View) {
	t.Helper()
	r, err := backup.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := statemachine.NewRestorer(r.Header().Machine)
	if err != nil {
		t.Fatal(err)
	}
	st, err := voter.NewMemoryStorage()
	if err != nil {
		t.Fatal(err)
	}
	var batch storage.Batch
	for {
		chunk, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range chunk {
			value, err := rows.Row(row.Key, row.Value)
			if err != nil {
				t.Fatal(err)
			}
			batch.Put(bytes.Clone(row.Key), bytes.Clone(value))
		}
	}
	if rows.Keys != r.Trailer().Keys {
		t.Errorf("%d keys, %d were announced", rows.Keys, r.Trailer().Keys)
	}
	for _, row := range rows.Finish(1, 1, voter.FoundingConfiguration("n")) {
		batch.Put(row.Key, row.Value)
	}
	if err := st.Engine().Write(&batch); err != nil {
		t.Fatal(err)
	}
	store, err := memtable.Open(st.Engine(), memtable.Options{OnError: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	view, err := store.View()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		view.Release()
		if err := errors.Join(store.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return r.Header(), view
}

// Backups of every voter, taken while the cluster writes, show one moment each,
// not before the call, and never half of a command.
func TestBackupWhileWriting(t *testing.T) {
	c := newCluster(t, []string{"a", "b", "c"}, nil)
	cl := c.client()
	for i := range 300 { // more than one chunk
		cl.put(fmt.Sprintf("filler%d", i), string(make([]byte, 4000)))
	}
	var written atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with cancel
		defer close(done)
		writer := c.client()
		for n := int64(1); ctx.Err() == nil; n++ {
			if _, err := writer.try(pair(fmt.Sprintf("%012d", n)), 5*time.Second); err == nil {
				written.Store(n)
			}
		}
	}()
	eventually(t, "something is written", func() bool { return written.Load() > 10 })
	for _, n := range c.nodes {
		before := written.Load()
		var out bytes.Buffer
		trailer, err := n.v.Load().Backup(ctx, &out, voter.BackupInfo{Cluster: "c", Created: time.Now()})
		if err != nil {
			t.Fatalf("%s: %v", n.id, err)
		}
		h, view := contents(t, out.Bytes())
		first := value(t, statemachine.Read(view, get("a")))
		last := value(t, statemachine.Read(view, get("z")))
		if first != last || first < fmt.Sprintf("%012d", before) {
			t.Errorf("%s: the backup has %s and %s, and %d was written before", n.id, first, last, before)
		}
		if h.Node != n.id || h.Index == 0 || trailer.Keys != 302 {
			t.Errorf("%s: %+v, %+v", n.id, h, trailer)
		}
	}
	cancel()
	<-done
}

// A reader that goes away ends the backup, and nothing is kept for it.
func TestBackupOfAReaderThatGoesAway(t *testing.T) {
	c := newCluster(t, []string{"a"}, nil)
	c.client().put("k", string(make([]byte, 1<<20)))
	broken := errors.New("broken")
	_, err := c.leader().v.Load().Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, broken }), voter.BackupInfo{})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := c.leader().v.Load().Backup(ctx, io.Discard, voter.BackupInfo{}); err == nil {
		t.Error("a backup that nobody wants any more")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
