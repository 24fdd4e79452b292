package raftlog

// Codec is the format of one entry.
type Codec = codec

// Zeroed is raft-wal's access to the file system.
type Zeroed = zeroed
