package holds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

const (
	// killTime is how long the end of a process tree may take after SIGKILL.
	killTime = time.Second
	// driftPerMille is 2ρ: two hosts' raw clocks may differ by 0.1 % each.
	driftPerMille = 2
	// electionTime is what an election may cost before a renewal gets through.
	electionTime = 2 * time.Second
)

// interval is how often a session is renewed.
func interval(ttl time.Duration) time.Duration { return ttl / 4 }

// tail is how long before the end of the lease a holder must have been told to
// end at once: what a kill takes, and what two clocks may differ by.
func tail(ttl time.Duration) time.Duration { return killTime + ttl/1000*driftPerMille }

// margin is how long before the end of the lease the holder is told to stop: the
// quorum must not give the lock away before its processes are gone (HAZARDS.md 12).
func margin(ttl, grace time.Duration) time.Duration { return grace + tail(ttl) }

// slew is what a deadline loses when it is told as boot time: that clock may be
// slewed against lease time, so what remains is divided by 1.1 (DESIGN.md: the
// kernel holds the hard deadline).
func slew(left time.Duration) time.Duration { return left / 11 }

// needs is what a lease of ttl has to cover at least.
func needs(ttl, grace time.Duration) time.Duration {
	return interval(ttl) + margin(ttl, grace) + slew(ttl-tail(ttl))
}

// covers reports whether a lease of ttl outlasts a renewal interval and the
// stop after it.
func covers(ttl, grace time.Duration) bool { return ttl >= needs(ttl, grace) }

// ample reports whether it outlasts an election as well.
func ample(ttl, grace time.Duration) bool { return ttl >= needs(ttl, grace)+electionTime }

// sum shows what a TTL has to cover.
func sum(ttl, grace time.Duration) string {
	ms := time.Millisecond
	return fmt.Sprintf("%s until the next renewal + %s grace + %s for the kill + %s for clocks that differ = %s",
		interval(ttl).Round(ms), grace.Round(ms), killTime, (needs(ttl, grace) - interval(ttl) - grace - killTime).Round(ms), needs(ttl, grace).Round(ms))
}

// shortTTLWarning is shown with the grant when an election may cost the hold.
func shortTTLWarning(ttl, grace time.Duration) string {
	if ample(ttl, grace) {
		return ""
	}
	return fmt.Sprintf("an election may cost this hold: a ttl of %s leaves less than %s for it (%s)", ttl, electionTime, sum(ttl, grace))
}

const invalidCode = replication.Code_CODE_INVALID

func refuse(code replication.Code, format string, args ...any) error {
	return &replication.RefusedError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func checkRequest(req localapi.HoldRequest) error {
	const invalid = invalidCode
	switch {
	case req.Lock == "":
		return refuse(invalid, "the name of the lock is empty")
	case req.TTL <= 0 || req.TTL > maxTTL:
		return refuse(invalid, "a ttl of %s is not between 1ms and %s", req.TTL, maxTTL)
	case req.TTL%time.Millisecond != 0:
		return refuse(invalid, "a ttl of %s is not a whole number of milliseconds", req.TTL)
	case req.Grace < 0 || req.Grace > maxTTL:
		return refuse(invalid, "a grace of %s is not between 0s and %s", req.Grace, maxTTL)
	case !covers(req.TTL, req.Grace):
		return refuse(invalid, "a ttl of %s is too short: %s; raise the ttl or lower the grace", req.TTL, sum(req.TTL, req.Grace))
	}
	switch req.Witness {
	case localapi.WitnessConnection:
		if len(req.Pidfds) > 0 {
			return refuse(invalid, "a hold with a connection as witness takes no pidfds")
		}
	case localapi.WitnessProcess:
		if len(req.Pidfds) == 0 {
			return refuse(invalid, "a hold with processes as witness needs their pidfds")
		}
		if len(req.Pidfds) > maxWitnesses {
			return refuse(invalid, "%d pidfds are more than %d", len(req.Pidfds), maxWitnesses)
		}
		if req.LastEndsTree && len(req.Pidfds) < 2 {
			return refuse(invalid, "the pidfd whose end is the tree's comes after the others, and there is only one")
		}
	default:
		return refuse(invalid, "the witness %q is neither connection nor process", req.Witness)
	}
	return nil
}

// sessionFor returns the session for a TTL, made when needed. With maxSessions
// in use it is the one with the next lower TTL that still covers the margin.
// mu is held.
func (h *Holds) sessionFor(ttl, grace time.Duration) (*session, error) {
	if s := h.sessions[ttl]; s != nil {
		return s, nil
	}
	if len(h.sessions) >= maxSessions {
		for _, s := range h.sessions {
			if len(s.holds) == 0 {
				s.retire()
				break
			}
		}
	}
	if len(h.sessions) < maxSessions {
		return h.newSession(ttl, 0), nil
	}
	kept := slices.Sorted(maps.Keys(h.sessions))
	for _, lower := range slices.Backward(kept) {
		if lower < ttl && covers(lower, grace) {
			return h.sessions[lower], nil
		}
	}
	return nil, refuse(replication.Code_CODE_LIMIT, "this agent keeps %d different ttls already (%s), and none of them is a shorter one that would do; ask for one of these", maxSessions, durations(kept))
}

func durations(ds []time.Duration) string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.String()
	}
	return strings.Join(texts, ", ")
}
