package raftlog

// Codec is the format of one entry.
type Codec = codec
