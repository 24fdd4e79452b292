package discovery

import (
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Profile says how far apart agents are.
type Profile string

// The profiles. They are memberlist's.
const (
	LAN   Profile = "lan"   // one data centre
	WAN   Profile = "wan"   // several: slower to suspect
	Local Profile = "local" // one host, or tests: quick
)

func (p Profile) memberlist() *memberlist.Config {
	switch p {
	case WAN:
		return memberlist.DefaultWANConfig()
	case Local:
		c := memberlist.DefaultLocalConfig()
		c.SuspicionMaxTimeoutMult = 2 // nobody else need confirm it: there is no network in between
		return c
	}
	return memberlist.DefaultLANConfig()
}

// serfConfig is what serf is started with, without what differs by agent.
func serfConfig(p Profile) *serf.Config {
	m := p.memberlist()
	// lzw takes a fresh 100 KiB for each message; ours are small.
	m.EnableCompression = false
	// A node that comes back elsewhere is the same one: its name is random and
	// made with its data directory.
	m.DeadNodeReclaimTime = time.Nanosecond
	m.DelegateProtocolVersion = serf.ProtocolVersionMax
	m.DelegateProtocolMin, m.DelegateProtocolMax = serf.ProtocolVersionMin, serf.ProtocolVersionMax
	c := serf.DefaultConfig()
	c.MemberlistConfig = m
	// Serf would have the newer of two agents with one name leave: membership
	// tells the operator, who knows which.
	c.EnableNameConflictResolution = false
	// Nobody waits until what is told was sent for the last time; see Finder.tell.
	c.BroadcastTimeout = time.Millisecond
	c.DisableCoordinates = true
	c.RejoinAfterLeave = true
	c.EventBuffer, c.QueryBuffer = 16, 16 // neither is used
	return c
}
