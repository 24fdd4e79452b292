package voter_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage"
)

var update = flag.Bool("update", false, "write the golden file of the snapshot format")

// levels are those whose snapshots have a version of their own, each with its file.
var levels = map[uint32]string{2: "testdata/snapshot-v1.golden", 3: "testdata/snapshot-v2.golden"}

// golden is a stream of three chunks.
func golden(level uint32) []byte {
	var rows []storage.Row
	for i := range 7 {
		rows = append(rows, storage.Row{Key: fmt.Appendf(nil, "key-%d", i), Value: bytes.Repeat([]byte{byte(i)}, i*40)})
	}
	return voter.EncodeSnapshot(1234, 7, level, rows, 3)
}

// What a version wrote must be readable for ever.
func TestSnapshotGolden(t *testing.T) {
	for level, file := range levels {
		if *update {
			if err := os.WriteFile(file, golden(level), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := golden(level); !bytes.Equal(got, want) {
			t.Fatalf("the format of %s has changed; it has %d bytes now, %d before: raise the version, with a feature level", file, len(got), len(want))
		}
		index, term, rows, err := voter.DecodeSnapshot(want, 10)
		if err != nil || index != 1234 || term != 7 || len(rows) != 7 || len(rows[6].Value) != 240 {
			t.Fatalf("index %d, term %d, %d rows, %v", index, term, len(rows), err)
		}
	}
	for level := range uint32(3) {
		if !bytes.Equal(golden(level), golden(2)) {
			t.Errorf("at level %d something else is sent than voters of that level read", level)
		}
	}
}

// A voter of before the level refuses what was written under it by its first
// bytes, and takes what is sent as long as it takes part.
func TestSnapshotOfAnotherLevel(t *testing.T) {
	if _, _, rows, err := voter.DecodeSnapshotKnowing(2, golden(2), 10); err != nil || len(rows) != 7 {
		t.Errorf("of its own level: %d rows, %v", len(rows), err)
	}
	for _, level := range []uint32{3, 4, 5} {
		_, _, rows, err := voter.DecodeSnapshotKnowing(level-1, golden(level), 10)
		if !errors.Is(err, voter.ErrSnapshotNewer) || len(rows) != 0 {
			t.Errorf("level %d: %d rows were taken before it was refused with %v", level, len(rows), err)
		}
	}
}

// A stream with any byte changed, cut off or added is refused, and one of a newer
// version is told from a damaged one.
func TestSnapshotDamage(t *testing.T) {
	for level := range levels {
		damage(t, golden(level))
	}
}

func damage(t *testing.T, stream []byte) {
	for i := range stream {
		bad := bytes.Clone(stream)
		bad[i] ^= 0x10
		if _, _, _, err := voter.DecodeSnapshot(bad, 64); err == nil {
			t.Fatalf("byte %d was changed, and nobody noticed", i)
		}
	}
	for i := range stream {
		if _, _, _, err := voter.DecodeSnapshot(stream[:i], 64); !errors.Is(err, voter.ErrSnapshotDamaged) {
			t.Fatalf("cut off after %d bytes: %v", i, err)
		}
	}
	if _, _, _, err := voter.DecodeSnapshot(append(bytes.Clone(stream), 0), 64); !errors.Is(err, voter.ErrSnapshotDamaged) {
		t.Fatalf("a byte too many: %v", err)
	}
	newer := bytes.Clone(stream)
	newer[8] = 3
	if _, _, _, err := voter.DecodeSnapshot(newer, 64); !errors.Is(err, voter.ErrSnapshotNewer) {
		t.Fatalf("version 3: %v", err)
	}
}

// Streams that are consistent in themselves, but not what a voter writes.
func TestSnapshotRefusesNonsense(t *testing.T) {
	row := func(k, v string) storage.Row { return storage.Row{Key: []byte(k), Value: []byte(v)} }
	huge := voter.EncodeSnapshot(1, 1, 3, nil, 1)[:40]
	chunk := binary.LittleEndian.AppendUint32(nil, 1<<31)
	chunk = binary.LittleEndian.AppendUint32(chunk, 1)
	dense := make([]storage.Row, 300_000)
	for i := range dense {
		dense[i].Key = binary.BigEndian.AppendUint32(nil, uint32(i))
	}
	for name, stream := range map[string][]byte{
		"out of order":           voter.EncodeSnapshot(1, 1, 3, []storage.Row{row("b", ""), row("a", "")}, 2),
		"out of order, chunks":   voter.EncodeSnapshot(1, 1, 3, []storage.Row{row("b", ""), row("a", "")}, 1),
		"doubled":                voter.EncodeSnapshot(1, 1, 3, []storage.Row{row("a", ""), row("a", "")}, 2),
		"a chunk of 2 GiB":       append(huge, chunk...),
		"too many rows":          voter.EncodeSnapshot(1, 1, 3, dense, len(dense)),
		"wrong magic, right sum": resum([]byte("NOTKAHU!")),
	} {
		if _, _, _, err := voter.DecodeSnapshot(stream, 4096); !errors.Is(err, voter.ErrSnapshotDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func resum(magic []byte) []byte {
	b := append(magic, golden(3)[8:32]...)
	return binary.LittleEndian.AppendUint64(b, xxh3.HashSeed(b, 0))
}

func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.Byte(), 0, 20), 0, 40, func(k []byte) string { return string(k) }).Draw(t, "keys")
		rows := make([]storage.Row, 0, len(keys))
		for _, k := range keys {
			rows = append(rows, storage.Row{Key: k, Value: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value")})
		}
		slices.SortFunc(rows, func(a, b storage.Row) int { return bytes.Compare(a.Key, b.Key) })
		stream := voter.EncodeSnapshot(9, 3, rapid.Uint32Range(0, statemachine.CurrentLevel).Draw(t, "level"), rows, rapid.IntRange(1, 50).Draw(t, "rows per chunk"))
		index, term, got, err := voter.DecodeSnapshot(stream, rapid.IntRange(1, 200).Draw(t, "piece"))
		if err != nil || index != 9 || term != 3 || len(got) != len(rows) {
			t.Fatalf("index %d, term %d, %d of %d rows, %v", index, term, len(got), len(rows), err)
		}
		for i := range rows {
			if !bytes.Equal(got[i].Key, rows[i].Key) || !bytes.Equal(got[i].Value, rows[i].Value) {
				t.Fatalf("row %d: %q", i, got[i])
			}
		}
	})
}

func FuzzSnapshotReader(f *testing.F) {
	f.Add(golden(2), 7)
	f.Add(golden(3), 7)
	f.Add([]byte("KAHUSNAP"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		index, term, rows, err := voter.DecodeSnapshot(stream, max(1, piece))
		if err != nil {
			if !errors.Is(err, voter.ErrSnapshotDamaged) && !errors.Is(err, voter.ErrSnapshotNewer) {
				t.Fatal(err)
			}
			return
		}
		// What was accepted is what a voter writes, but for the size of its chunks.
		_, _, again, err := voter.DecodeSnapshot(voter.EncodeSnapshot(index, term, 3, rows, 10), 100)
		if err != nil || len(again) != len(rows) {
			t.Fatalf("%d rows became %d: %v", len(rows), len(again), err)
		}
	})
}

// A snapshot of a voter's own must not end as the newest one when another was
// installed while it was written.
func TestOwnSnapshotEndsWhenAnotherIsInstalled(t *testing.T) {
	c := newCluster(t, three[:1], nil)
	c.client().put("k", "v")
	v := c.leader().v.Load()
	if err := v.SnapshotAround(func() error { return nil }); err != nil {
		t.Fatalf("undisturbed: %v", err)
	}
	eventually(t, "a snapshot is installed", func() bool {
		p := v.Position() // fails when the leader's own next command comes in between
		err := v.SnapshotAround(func() error { return v.Install(p.Index, p.Term, func(b []byte) []byte { return b }) })
		if v.Status().Restores > 0 && !errors.Is(err, voter.ErrReplaced) {
			t.Fatalf("%v", err)
		}
		return v.Status().Restores > 0
	})
}
