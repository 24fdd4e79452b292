package holds_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/kahu-sh/kahu/agent/holds"
)

func TestTableFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	if err := holds.TableOf(path, "a", "b", "-a"); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte(nil), whole...)
	newer[8]++
	flipped := append([]byte(nil), whole...)
	flipped[30] ^= 1
	long := append([]byte(nil), whole...)
	long[13] ^= 4 // the first change is longer by 1024 bytes than the file has
	for _, c := range []struct {
		name    string
		text    []byte
		changes int
		damaged bool
	}{
		{"whole", whole, 3, false},
		{"empty", nil, 0, false},
		{"cut off while it was written", whole[:len(whole)-1], 2, false},
		{"cut off in a head", append(whole[:len(whole):len(whole)], 9), 3, false},
		{"a flipped bit", flipped, 2, true},
		{"a flipped bit in a length", long, 0, true},
		{"no header", whole[:5], 0, true},
		{"another file", []byte("something else entirely"), 0, true},
		{"a length that cannot be", append(whole[:len(whole):len(whole)], 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0), 3, true},
	} {
		if n, damaged, err := holds.ReadTable(c.text); n != c.changes || damaged != c.damaged || err != nil {
			t.Errorf("%s: %d changes, damaged %v, %v", c.name, n, damaged, err)
		}
	}
	var tooNew *holds.NewerTableError
	if _, _, err := holds.ReadTable(newer); !errors.As(err, &tooNew) {
		t.Errorf("a newer version: %v", err)
	}
}

func FuzzTable(f *testing.F) {
	path := filepath.Join(f.TempDir(), "table")
	if err := holds.TableOf(path, "a", "-a", "b"); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = holds.ReadTable(b) // must not panic, nor take more memory than the file
	})
}

// What a hold costs for being taken up again: its record, and its end.
func BenchmarkTable(b *testing.B) {
	put, done, err := holds.TableForBench(filepath.Join(b.TempDir(), "table"), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer done()
	b.ReportAllocs()
	for i := range b.N {
		if err := put(fmt.Sprintf("%032x", i)); err != nil {
			b.Fatal(err)
		}
	}
}
