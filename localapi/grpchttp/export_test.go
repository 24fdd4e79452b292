package grpchttp

// For the fuzz target.
var ParseTimeout = parseTimeout
