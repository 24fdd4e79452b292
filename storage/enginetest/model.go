package enginetest

import (
	"bytes"
	"errors"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"pgregory.net/rapid"
)

// model is what an engine should hold.
type model map[string]string

func (m model) apply(b *storage.Batch) {
	for _, op := range b.Ops() {
		if op.Delete {
			delete(m, string(op.Key))
		} else {
			m[string(op.Key)] = string(op.Value)
		}
	}
}

func (m model) rows(from, to []byte) []string {
	out := []string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(from) && (to == nil || k < string(to)) {
			out = append(out, k+"="+m[k])
		}
	}
	return out
}

// held is a snapshot with what it should show for ever.
type held struct {
	snap storage.Snapshot
	want model
}

// testModel plays random operations on an engine and on a map.
func testModel(t *testing.T, open Opener) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "model")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		e, err := open(filepath.Clean(dir))
		if err != nil {
			t.Fatal(err)
		}
		now, snaps := model{}, []held{}
		defer func() {
			for _, h := range snaps {
				h.snap.Release()
			}
			e.Close()
		}()
		// Few distinct keys, so that operations meet; with the nasty bytes.
		key := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 0xff}), 0, 3)
		bound := rapid.OneOf(rapid.Just([]byte(nil)), key)
		value := rapid.SliceOfN(rapid.Byte(), 0, 20)
		compare := func(r storage.Reader, want model) {
			from, to := bound.Draw(t, "from"), bound.Draw(t, "to")
			rows := want.rows(from, to)
			checkRows(t, "Scan", r.Scan(from, to), rows)
			slices.Reverse(rows)
			checkRows(t, "ScanReverse", r.ScanReverse(from, to), rows)
			k := key.Draw(t, "key")
			got, err := r.Get(k)
			v, ok := want[string(k)]
			if ok && (err != nil || string(got) != v) || !ok && !errors.Is(err, storage.ErrNotFound) {
				t.Fatalf("Get(%q) = %q, %v; the model has %q, %v", k, got, err, v, ok)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { compare(e, now) },
			"write": func(t *rapid.T) {
				var b storage.Batch
				for range rapid.IntRange(0, 8).Draw(t, "ops") {
					if rapid.Bool().Draw(t, "delete") {
						b.Delete(key.Draw(t, "key"))
					} else {
						b.Put(key.Draw(t, "key"), value.Draw(t, "value"))
					}
				}
				if err := e.Write(&b); err != nil {
					t.Fatal(err)
				}
				now.apply(&b)
			},
			"snapshot": func(t *rapid.T) {
				if len(snaps) == 4 {
					t.Skip("enough")
				}
				snap, err := e.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				snaps = append(snaps, held{snap, maps.Clone(now)})
			},
			"read a snapshot": func(t *rapid.T) {
				if len(snaps) == 0 {
					t.Skip("none")
				}
				h := rapid.SampledFrom(snaps).Draw(t, "snapshot")
				compare(h.snap, h.want)
			},
			"release": func(t *rapid.T) {
				if len(snaps) == 0 {
					t.Skip("none")
				}
				i := rapid.IntRange(0, len(snaps)-1).Draw(t, "which")
				snaps[i].snap.Release()
				snaps = slices.Delete(snaps, i, i+1)
			},
			"sync": func(t *rapid.T) {
				if err := e.Sync(); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) {
				if len(snaps) > 0 {
					t.Skip("snapshots are held")
				}
				if err := errors.Join(e.Sync(), e.Close()); err != nil {
					t.Fatal(err)
				}
				if e, err = open(dir); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func checkRows(t *rapid.T, what string, rows iter.Seq2[storage.Row, error], want []string) {
	got, last := []string{}, []byte(nil)
	for row, err := range rows {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if bytes.Equal(row.Key, last) && last != nil {
			t.Fatalf("%s: %q twice", what, last)
		}
		last = bytes.Clone(row.Key)
		got = append(got, string(row.Key)+"="+string(row.Value))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}
