package sqlite_test

import (
	"testing"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/enginetest"
	"github.com/kahu-sh/kahu/storage/sqlite"
)

func open(dir string) (storage.Engine, error) { return sqlite.Open(dir) }

func TestEngine(t *testing.T) { enginetest.Run(t, open) }

func BenchmarkEngine(b *testing.B) { enginetest.Benchmark(b, open) }
