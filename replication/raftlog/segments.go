package raftlog

import (
	"slices"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal 0.4 takes a codec of its user, but writes the number of its own into
// each new segment and then refuses to open it again. The two types below put
// our number where raft-wal names a segment: in its metadata and in the header
// of the file.

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
