// Package partitions tests a cluster on hosts that lose each other: each agent
// is a process in a network namespace of its own, on one bridge, and what one
// host sends to another can be dropped, in one direction, or for one protocol alone: UDP,
// TCP, and of the streams that share the one port those of Raft or of gossip.
//
// While a partition stands, clients on every host ask, and every answer is
// judged (test/history); holders take locks that their agents keep alive, and
// no two may hold one at once. A run in which no packet was dropped, or nothing
// was answered while the partition stood, fails: it shows nothing. Needs root,
// iproute2 and iptables, and is skipped without. KAHU_SOAK=1 runs every shape.
package partitions
