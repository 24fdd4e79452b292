// Package discovery finds the other agents of a cluster, by gossip.
//
// It promises that an agent which was told one address of its cluster, or a
// cloud's way to list them, sooner or later knows every other agent: who it is,
// at which address, in which role; that it remembers them on disk and goes on
// trying for ever, so that two halves which were apart for days find each other
// again; and that clusters with different secrets or ids never mix, although
// they share a network. The main types are Finder (serf over a transport of its
// own) and Seeds (what the operator wrote, as addresses).
//
// # One port
//
// Packets go by UDP on the agents' one port number, encrypted by memberlist
// with the gossip key, and labelled with the cluster's id: what has another
// label or key is dropped, and said once. Streams go over connections that
// somebody else dials, accepts and secures; they are handed in, as keys and the
// logger are. Gossip begins when the agent knows its cluster's id, which it
// learns from a verified voter and not from gossip. Keys come from the caller and
// from nobody else: serf's own commands that tell and change them are refused.
//
// # On disk
//
// An agent keeps a list of the others of its own (peers.json), voters first and for as
// long as they may come back, and tries those that are missing for ever: in rounds, of
// some addresses at a time, each less and less often. Serf's snapshot is not used. It
// holds less (who was alive when it was written), wakes the process twice a second to
// be written, and panics when it has grown and its file cannot be replaced: a sick disk
// or a removed file would end the agent.
//
// # What it does not do
//
// Gossip finds, and decides nothing. That a member is silent means that its
// address is not worth much; no lease, no vote and no session depends on it.
// Addresses that come from here are hints: who is really there is found out by
// the certificate of whoever answers. Who votes is the Raft configuration's to
// say (package replication/membership).
package discovery
