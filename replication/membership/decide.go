package membership

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Who votes, when agents with role auto are there: decide looks at what the
// leader knows and names at most one next step. It is a pure function, so that
// every case stands in a table. hashicorp/raft-autopilot was looked at: it takes
// what gossip says for what is dead, removes before it has replaced, and knows
// no number of voters to keep.

// picture is what a leader knows of the quorum at one moment.
type picture struct {
	want     int // voters to keep: 3 or 5; 0: nothing is decided
	voters   []seat
	learners []seat
	standbys []standby
}

// seat is a server of the Raft configuration.
type seat struct {
	node, zone string
	leads      bool
	pinned     bool          // an operator made it a voter: it stays one
	silent     time.Duration // since it last answered the leader's Raft
}

// standby is an agent that may be given a vote.
type standby struct {
	node, zone string
	stable     time.Duration // it has answered without a break for so long
}

// patience says when something is certain enough to act upon.
type patience struct {
	gone   time.Duration // a voter that was silent for so long is gone for good
	stable time.Duration // a standby that was there for so long will stay
}

// shaky is the silence after which a voter is not counted on.
const shaky = 5 * time.Second

type stepKind int

const (
	stay        stepKind = iota
	invite               // ask the standby to take a vote
	removeVoter          // take a voter, or a learner, out of the configuration
	moveLead             // hand leadership to node
)

func (k stepKind) String() string { return [...]string{"stay", "invite", "remove", "move lead"}[k] }

// step is what to do next, and why, for people.
type step struct {
	kind stepKind
	node string
	why  string
}

func majority(voters int) int { return voters/2 + 1 }

// decide names the next step. It never names one after which fewer voters than
// a majority are known to answer, and none while another is under way.
func decide(p picture, limit patience) step {
	if p.want == 0 {
		return step{}
	}
	if len(p.learners) > 0 {
		// A change is under way, unless who was to get a vote has gone.
		for _, l := range p.learners {
			if l.silent >= limit.gone {
				return step{removeVoter, l.node, fmt.Sprintf("it was to get a vote, and has not answered for %s", l.silent.Round(time.Second))}
			}
		}
		return step{}
	}
	var gone []seat
	sound := 0
	for _, v := range p.voters {
		if v.silent < shaky {
			sound++
		}
		if v.silent >= limit.gone {
			gone = append(gone, v)
		}
	}
	n := len(p.voters)
	if sound < majority(n) {
		return step{} // nothing could be committed
	}
	// A majority is sound, so it still is one when somebody who is gone leaves, when
	// a sound one comes, or when one leaves of whom all are sound: what follows need
	// not ask again.
	if n > p.want {
		return shrink(p, gone, sound)
	}
	if s := grow(p, limit, len(gone)); s.kind != stay {
		return s
	}
	return spread(p, limit, sound)
}

// shrink takes out whom the cluster does not need: first who is gone.
func shrink(p picture, gone []seat, sound int) step {
	n := len(p.voters)
	if len(gone) > 0 {
		v := slices.MaxFunc(gone, func(a, b seat) int { return cmp.Or(cmp.Compare(a.silent, b.silent), cmp.Compare(a.node, b.node)) })
		return step{removeVoter, v.node, fmt.Sprintf("it has not answered for %s, and %d voters are there without it", v.silent.Round(time.Second), n-len(gone))}
	}
	if sound < n {
		return step{} // somebody is shaky: the surplus is of use
	}
	count := zones(p.voters)
	spare := slices.DeleteFunc(slices.Clone(p.voters), func(v seat) bool { return v.pinned })
	if len(spare) == 0 {
		return step{} // an operator wants so many
	}
	if others := slices.DeleteFunc(slices.Clone(spare), func(v seat) bool { return v.leads }); len(others) > 0 {
		v := slices.MaxFunc(others, func(a, b seat) int {
			return cmp.Or(cmp.Compare(count[a.zone], count[b.zone]), cmp.Compare(a.node, b.node))
		})
		return step{removeVoter, v.node, fmt.Sprintf("%d voters are enough", p.want)}
	}
	to := slices.IndexFunc(p.voters, func(v seat) bool { return !v.leads })
	return step{moveLead, p.voters[to].node, fmt.Sprintf("%d voters are enough, and the one to go leads", p.want)}
}

// grow gives a vote to a standby when voters are missing or gone.
func grow(p picture, limit patience, gone int) step {
	n := len(p.voters)
	if n-gone >= p.want {
		return step{}
	}
	ready := stable(p.standbys, limit)
	if len(ready) == 0 {
		return step{}
	}
	if gone == 0 && n%2 == 1 && len(ready) < 2 {
		// An even number survives no more failures than the odd one before it, and
		// needs one more vote for everything.
		return step{}
	}
	why := fmt.Sprintf("%d of %d voters are there", n-gone, p.want)
	return step{invite, best(ready, zones(p.voters)).node, why}
}

// spread brings a zone in that has fewer voters, when another can give one up.
func spread(p picture, limit patience, sound int) step {
	n := len(p.voters)
	if n != p.want || sound < n {
		return step{}
	}
	count := zones(p.voters)
	ready := slices.DeleteFunc(stable(p.standbys, limit), func(s standby) bool { return s.zone == "" })
	if len(ready) == 0 {
		return step{}
	}
	s := best(ready, count)
	for _, v := range p.voters {
		if !v.pinned && !v.leads && v.zone != "" && count[v.zone] >= count[s.zone]+2 {
			return step{invite, s.node, fmt.Sprintf("zone %s has %d voters and zone %s %d", v.zone, count[v.zone], s.zone, count[s.zone])}
		}
	}
	return step{}
}

func zones(voters []seat) map[string]int {
	count := make(map[string]int)
	for _, v := range voters {
		count[v.zone]++
	}
	return count
}

func stable(all []standby, limit patience) []standby {
	return slices.DeleteFunc(slices.Clone(all), func(s standby) bool { return s.stable < limit.stable })
}

// best is in the zone with the fewest voters.
func best(ready []standby, count map[string]int) standby {
	return slices.MinFunc(ready, func(a, b standby) int {
		return cmp.Or(cmp.Compare(count[a.zone], count[b.zone]), cmp.Compare(a.node, b.node))
	})
}
