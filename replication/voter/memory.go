package voter

import (
	"fmt"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/memory"
)

// MemoryStorage is a Storage that leaves nothing behind: log and engine live in
// memory. For `kahu agent --dev` and tests; a voter on it must never share a
// quorum with others, because it forgets its vote.
type MemoryStorage struct {
	engine *memory.Engine
}

var _ Storage = (*MemoryStorage)(nil)

// NewMemoryStorage returns an empty MemoryStorage.
func NewMemoryStorage() (*MemoryStorage, error) {
	e, err := memory.Open("")
	if err != nil {
		return nil, fmt.Errorf("opening storage in memory: %w", err)
	}
	return &MemoryStorage{engine: e}, nil
}

// Engine implements Storage.
func (s *MemoryStorage) Engine() storage.Engine { return s.engine }

// LogDir implements Storage.
func (s *MemoryStorage) LogDir() string { return "" }

// NewGeneration implements Storage.
func (s *MemoryStorage) NewGeneration() (Generation, error) {
	e, err := memory.Open("")
	if err != nil {
		return nil, fmt.Errorf("opening storage in memory: %w", err)
	}
	return &memoryGeneration{storage: s, engine: e}, nil
}

// Close frees the memory. The voter must have stopped.
func (s *MemoryStorage) Close() error { return s.engine.Close() }

type memoryGeneration struct {
	storage *MemoryStorage
	engine  *memory.Engine // nil when activated or discarded
}

func (g *memoryGeneration) Engine() storage.Engine { return g.engine }

func (g *memoryGeneration) Activate() error {
	old := g.storage.engine
	g.storage.engine, g.engine = g.engine, nil
	return old.Close()
}

func (g *memoryGeneration) Discard() error {
	if g.engine == nil {
		return nil
	}
	e := g.engine
	g.engine = nil
	return e.Close()
}
