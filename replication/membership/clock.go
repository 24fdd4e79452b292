package membership

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// aheadOf is how far the wall clock of who says h is ahead of this host's, which is now;
// 0 when it does not say.
func aheadOf(h *link.Hello, now time.Time) time.Duration {
	if h.GetWallMs() == 0 {
		return 0
	}
	return time.UnixMilli(h.GetWallMs()).Sub(now)
}

// checkClock tells of a wall clock that is far off, once until it is right again. No
// lease depends on it, but what is shown to people does, and certificates of an own
// PKI. It needs mu.
func (k *Keeper) checkClock(node string, s *sight) {
	key := "clock " + node
	if s.ahead.Abs() <= clockTolerance {
		delete(k.said, key)
		return
	}
	k.sayOnce(key, slog.LevelWarn, "the wall clocks of two hosts differ: set them by NTP; leases do not depend on it, times that are shown do",
		"node", node, "name", cut(s.hello.GetSelf().GetName()), "ahead_by", s.ahead.Round(time.Second))
}

// ClockProblem says in one line that the wall clocks of this host and
// of voters that were heard lately differ by more than a minute; empty when they do not.
// A proxy's clock tells nothing: there are many, and its own agent says the same.
// It is some seconds old. No lease depends on wall clocks.
func (k *Keeper) ClockProblem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if problem := k.undatedProblem(time.Now()); problem != "" {
		return problem
	}
	var heard []string
	for _, node := range slices.Sorted(maps.Keys(k.seen)) {
		if s := k.seen[node]; s.id.Voter && time.Since(s.at) < 2*settledInterval && s.timed {
			heard = append(heard, node)
		}
	}
	// Most of the others agree with each other, and not with this host.
	for _, node := range heard {
		off, same := k.seen[node].ahead, 0
		for _, other := range heard {
			if (k.seen[other].ahead - off).Abs() <= clockTolerance {
				same++
			}
		}
		if off.Abs() > clockTolerance && same >= 2 && same > len(heard)/2 {
			return fmt.Sprintf("the wall clock of this host is %s those of %d of the %d voters that it hears", apart(-off), same, len(heard))
		}
	}
	var wrong []string
	for _, node := range heard {
		if s := k.seen[node]; s.ahead.Abs() > clockTolerance {
			name := cut(s.hello.GetSelf().GetName())
			if name == "" {
				name = node
			}
			wrong = append(wrong, fmt.Sprintf("%s is %s this one's", name, apart(s.ahead)))
		}
	}
	if len(wrong) == 0 {
		return ""
	}
	more := ""
	if n := len(wrong); n > maxWrongClocks {
		wrong, more = wrong[:maxWrongClocks], fmt.Sprintf(", and %d more differ", n-maxWrongClocks)
	}
	return "the wall clock of " + strings.Join(wrong, ", of ") + more
}

// maxWrongClocks are named in one line.
const maxWrongClocks = 3

// apart is how one clock stands to another.
func apart(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " behind"
	}
	return ahead.Round(time.Second).String() + " ahead of"
}

// notAtThisTime reports whether a connection failed since a certificate is not valid yet
// at this host's time, or not any more. Those made from a secret have no such dates.
func notAtThisTime(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// undatedProblem says that an agent is not talked to for that, or nothing. It needs mu.
func (k *Keeper) undatedProblem(now time.Time) string {
	if k.undated == "" {
		return ""
	}
	return fmt.Sprintf("by the wall clock of this host, %s, the certificate of the agent at %s is not valid: the clock is wrong, or that certificate has to be renewed",
		now.UTC().Format(time.RFC3339), k.undated)
}
