package raftlog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal 0.4 takes a codec of its user, but writes the number of its own into
// each new segment and then refuses to open it again. The two types below put
// our number where raft-wal names a segment: in its metadata and in the header
// of the file. The second also mends what Open says.

// namedMeta is raft-wal's metadata store.
type namedMeta struct{ metadb.BoltMetaDB }

// CommitState implements types.MetaStore.
func (m *namedMeta) CommitState(s types.PersistentState) error {
	s.Segments = slices.Clone(s.Segments)
	for i := range s.Segments {
		s.Segments[i].Codec = codecID
	}
	return m.BoltMetaDB.CommitState(s)
}

// namedSegments is raft-wal's access to its files.
type namedSegments struct{ types.SegmentFiler }

// Create implements types.SegmentFiler.
func (f namedSegments) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	info.Codec = codecID
	return f.SegmentFiler.Create(info)
}

// Open implements types.SegmentFiler. When raft-wal 0.4 cuts off the end of the
// log, it seals the file that it stops writing to without an index of its
// entries. As long as the process lives its writer finds them; after a restart
// nobody would, and a voter that ever gave way to another leader could not start
// any more. Reading the file through, as for one that is not sealed, finds them
// again. It writes nothing.
func (f namedSegments) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	if info.IndexStart != 0 {
		return f.SegmentFiler.Open(info)
	}
	w, err := f.RecoverTail(info)
	if err != nil {
		return nil, err
	}
	if last := w.LastIndex(); last < info.MaxIndex {
		return nil, errors.Join(fmt.Errorf("%w: the file from entry %d ends at entry %d, %d were durable",
			ErrCorrupt, info.BaseIndex, last, info.MaxIndex), w.Close())
	}
	return w, nil
}
