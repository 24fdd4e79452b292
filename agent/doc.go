// Package agent builds one agent out of all the others, starts it, and stops it.
//
// It promises that everything is built in one visible order (Run) and stopped
// in the reverse one; that nothing is served before it can be; and that an
// agent which may no longer decide ends its process at once. What the parts do
// is theirs to say. In the order in which a request meets them: localapi (the
// socket), holds (locks kept for local processes), replication/forward (who
// leads), then on a voter replication/voter, and otherwise replication/link.
package agent
