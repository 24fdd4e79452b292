package datadir

// DecodeIdentity is for the fuzz target.
var DecodeIdentity = decodeIdentity
