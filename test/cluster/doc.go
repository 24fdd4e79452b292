// Package cluster runs real agents: the shipped binary as processes on
// loopback or in network namespaces of the caller's (Place), each with a data
// directory and a socket of its own in one temporary folder.
//
// Start brings up voters and proxies and waits until they serve. An Agent can
// be killed, stopped, continued, asked to end, and started again with the same
// data. Whoever waits, waits for a condition (Wait, Cluster.Leader), never for
// a duration. Stop ends every process; when the program that holds the Cluster
// is itself killed, the kernel ends them.
//
// What is asked of the agents is left to the tests in test/e2e, to test/demo
// and to test/bench; they get a client from Agent.Dial.
package cluster
