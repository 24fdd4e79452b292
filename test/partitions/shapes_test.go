package partitions_test

import "slices"

// A cast is who plays what when a partition begins.
type cast struct {
	all       []*host
	leader    *host
	followers []*host
	proxies   []*host
}

// A partition is what is dropped, and what that may cost.
type partition struct {
	drops []drop
	// starved: on these hosts nothing that was asked after the cut settled may be
	// acknowledged before it heals. serving: on these, clients go on.
	starved, serving []*host
	calm             bool // the leader stays, and nothing that is asked fails anywhere
	// gossip: it stands until on each host gossip takes all others for gone, and has
	// healed when it takes them all for there again.
	gossip bool
}

// A shape is a kind of partition.
type shape struct {
	name  string
	short bool // also without KAHU_SOAK
	make  func(c cast) partition
}

// apart drops everything between the two sides, both ways.
func apart(a, b []*host) (drops []drop) {
	return append(deaf(a, b), deaf(b, a)...)
}

// deaf drops everything that the second side sends to the first.
func deaf(ears, mouths []*host) (drops []drop) {
	for _, to := range ears {
		for _, from := range mouths {
			if from != to {
				drops = append(drops, drop{from: from, to: to})
			}
		}
	}
	return drops
}

// only narrows drops to a protocol.
func only(protocol string, drops []drop) []drop {
	for i := range drops {
		drops[i].protocol = protocol
	}
	return drops
}

// others are all hosts without some.
func (c cast) others(without ...*host) []*host {
	return slices.DeleteFunc(slices.Clone(c.all), func(h *host) bool { return slices.Contains(without, h) })
}

func one(h *host) []*host { return []*host{h} }

// shapes are all partitions, in the order in which one cluster goes through them.
var shapes = []shape{
	{"leader alone", true, func(c cast) partition {
		rest := c.others(c.leader)
		return partition{drops: apart(one(c.leader), rest), starved: one(c.leader), serving: rest}
	}},
	{"leader hears nobody", true, func(c cast) partition {
		rest := c.others(c.leader)
		return partition{drops: deaf(one(c.leader), rest), starved: one(c.leader), serving: rest}
	}},
	{"UDP only", true, func(c cast) partition {
		// As by a firewall that forgot it. Gossip has its streams for that.
		return partition{drops: only("udp", apart(c.all, c.all)), serving: c.all, calm: true}
	}},
	{"gossip only", false, func(c cast) partition {
		all := append(only("udp", apart(c.all, c.all)), only("gossip", apart(c.all, c.all))...)
		return partition{drops: all, serving: c.all, calm: true, gossip: true}
	}},
	{"a proxy without the leader", true, func(c cast) partition {
		// It reaches the other voters, which pass on what it asks.
		return partition{drops: apart(c.proxies[:1], one(c.leader)), serving: c.all, calm: true}
	}},
	{"a proxy does not hear the leader", false, func(c cast) partition {
		return partition{drops: deaf(c.proxies[:1], one(c.leader)), serving: c.all}
	}},
	{"the leader does not hear a proxy", false, func(c cast) partition {
		return partition{drops: deaf(one(c.leader), c.proxies[:1]), serving: c.all}
	}},
	{"nobody hears the leader", false, func(c cast) partition {
		rest := c.others(c.leader)
		return partition{drops: deaf(rest, one(c.leader)), starved: one(c.leader), serving: rest}
	}},
	{"a follower alone", false, func(c cast) partition {
		f := c.followers[0]
		rest := c.others(f)
		return partition{drops: apart(one(f), rest), starved: one(f), serving: rest}
	}},
	{"a follower hears nobody", false, func(c cast) partition {
		f := c.followers[0]
		rest := c.others(f)
		return partition{drops: deaf(one(f), rest), starved: one(f), serving: rest}
	}},
	{"nobody hears a follower", false, func(c cast) partition {
		f := c.followers[0]
		rest := c.others(f)
		return partition{drops: deaf(rest, one(f)), starved: one(f), serving: rest}
	}},
	{"the leader in a minority with the proxies", false, func(c cast) partition {
		minority := append(one(c.leader), c.proxies...)
		return partition{drops: apart(minority, c.followers), starved: minority, serving: c.followers}
	}},
	{"the leader in a majority with a proxy", false, func(c cast) partition {
		majority := []*host{c.leader, c.followers[0], c.proxies[0]}
		rest := c.others(majority...)
		return partition{drops: apart(majority, rest), starved: rest, serving: majority}
	}},
	{"the leader and one follower", false, func(c cast) partition {
		// Both reach the third voter, which passes on, and every proxy reaches all three.
		return partition{drops: apart(one(c.leader), c.followers[:1]), serving: c.all}
	}},
	{"no majority anywhere", false, func(c cast) partition {
		voters := append(one(c.leader), c.followers...)
		return partition{drops: apart(voters, voters), starved: c.all}
	}},
	{"proxies cut off", false, func(c cast) partition {
		voters := c.others(c.proxies...)
		return partition{drops: apart(c.proxies, voters), starved: c.proxies, serving: voters}
	}},
	{"proxies hear nobody", false, func(c cast) partition {
		voters := c.others(c.proxies...)
		return partition{drops: deaf(c.proxies, voters), starved: c.proxies, serving: voters}
	}},
	{"Raft only, around the leader", false, func(c cast) partition {
		// Its host passes on what it is asked to the next one.
		return partition{drops: only("raft", apart(one(c.leader), c.followers)), serving: c.all}
	}},
	{"Raft only, a follower", false, func(c cast) partition {
		f := c.followers[0]
		return partition{drops: only("raft", apart(one(f), c.others(append(c.proxies, f)...))), serving: c.all, calm: true}
	}},
	{"Raft only, everywhere", false, func(c cast) partition {
		// Agents speak with each other, and nobody can decide anything.
		voters := append(one(c.leader), c.followers...)
		return partition{drops: only("raft", apart(voters, voters)), starved: c.all}
	}},
	{"TCP only, around the leader", false, func(c cast) partition {
		// Gossip goes on and says that everybody is well.
		return partition{drops: only("tcp", apart(one(c.leader), c.followers)), serving: c.followers}
	}},
	{"TCP only, everywhere", false, func(c cast) partition {
		voters := append(one(c.leader), c.followers...)
		return partition{drops: only("tcp", apart(voters, voters)), starved: c.all}
	}},
}
