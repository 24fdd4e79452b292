package raftlog

import "github.com/hashicorp/raft-wal/types"

// Codec is the format of one entry.
type Codec = codec

// WrapFiles lets a test break the disk.
func (o *Options) WrapFiles(f func(types.SegmentFiler) types.SegmentFiler) { o.wrapFiles = f }
