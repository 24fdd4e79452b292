// Package socket is the ground floor of the Go client: where the agent's socket
// is, how it is dialled, and what went wrong there.
//
// It promises typed errors of one line that say what to do next, and that it
// imports little, since kahu exec pays for its start (see package holdwire). What
// is asked over a connection is left to packages client and hold.
package socket
