// Package e2e tests the shipped binary: real agents as processes, real sockets,
// real kills. Everything is asked through the doors that users have, the
// command line and the Go client.
//
// KAHU_SOAK=1 (make soak) makes the long tests long; -short leaves them out.
package e2e
