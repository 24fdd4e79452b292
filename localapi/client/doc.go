// Package client is the Go client of a kahu agent: one multiplexed stream over
// the agent's Unix socket, dialled on demand and again after the agent was
// restarted.
//
// It promises typed errors (errors.Is with the Err… values), that a change is
// never sent twice by itself (ErrUnknownOutcome says when nobody can tell), but
// within Transact, where it carries an id that makes the second the first; and
// that a Hold says lost no later than its local deadline, whether or not the
// agent still answers. The main types are Client, Hold and Tx. What the requests
// mean is written in package replication, and who may ask is decided by the
// agent.
package client
