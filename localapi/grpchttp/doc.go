// Package grpchttp serves gRPC methods as a net/http handler, so that gRPC and
// REST share a port, a connection, its limits and its caller.
//
// It promises that any service made by protoc-gen-go-grpc can be registered; that
// a message longer than allowed, or announced and never sent, costs no memory to
// speak of; that messages sent in a burst leave in one write; that a peer which
// does not read its stream loses that stream and delays no other; and that Close
// lets calls under way end. The main type is Server. Who may connect and what
// they may do is left to the handler around it and to the services.
//
// # Why not one of grpc-go's own servers
//
// CPU time of the server for each message of one bidirectional stream (200 B up,
// 40 B down, 256 in flight, grpc-go's client, linux/amd64, Go 1.26, grpc-go 1.85):
//
//	grpc.Server on its own HTTP/2 transport        2.2 µs
//	grpc.Server.ServeHTTP on net/http             10.3 µs
//	this package on net/http                       3.7 µs
//	the same, its connections read ahead           2.0 µs
//
// The first cannot answer REST on a connection that carries gRPC: it answers 415,
// and a proxy or a client that uses one connection for both would fail. The second
// flushes each message by itself through three goroutines. This one collects what
// is sent while a write is under way, which is where most of the difference is; the
// rest is that net/http reads a frame of HTTP/2 with two reads of its own, which
// listeners can spare it (localapi/doors and localapi/caller do, with a bufio.Reader).
// BenchmarkStream measures it again, with allocations.
//
// # What of gRPC is here
//
// Unary calls and all kinds of streams; deadlines (grpc-timeout); status with
// details; response headers and trailers set through package grpc; messages that a
// client compressed with gzip, whose limit holds for what comes out of them; what
// package reflection asks. Answers are not compressed, as clients must accept.
// Another compression is answered UNIMPLEMENTED, with what is understood. Not here:
// interceptors, and request metadata in the handler's context.
package grpchttp
