package membership_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// What is said of wall clocks that differ: whose is wrong, as far as three can tell, and
// nothing any more when they are right.
func TestClockProblem(t *testing.T) {
	const day = 24 * time.Hour
	type clocks map[string]time.Duration // ahead, of those who say hello
	for _, c := range []struct {
		name  string
		heard clocks
		says  []string // in order; none: nothing
	}{
		{"nobody else", clocks{}, nil},
		{"all are right", clocks{"b": time.Second, "c": -time.Second}, nil},
		{"one other is ahead", clocks{"b": day, "c": 0}, []string{"the wall clock of host-b is 24h0m0s ahead of this one's"}},
		{"one other is behind", clocks{"b": 0, "c": -day}, []string{"the wall clock of host-c is 24h0m0s behind this one's"}},
		{"this one is ahead", clocks{"b": -day, "c": -day}, []string{"the wall clock of this host is 24h0m0s ahead of those of 2 of the 2 voters that it hears"}},
		{"this one is behind", clocks{"b": time.Hour, "c": time.Hour, "d": 0}, []string{"the wall clock of this host is 1h0m0s behind those of 2 of the 3 voters"}},
		{"a proxy is ahead", clocks{"b": 0, "c": 0, "proxy": day}, nil},
		{"of two nobody knows whose", clocks{"b": day}, []string{"the wall clock of host-b is 24h0m0s ahead of this one's"}},
		{"all differ", clocks{"b": day, "c": -day}, []string{"of host-b is 24h0m0s ahead of this one's", ", of host-c is 24h0m0s behind this one's"}},
		{"many differ", clocks{"b": 2 * day, "c": 4 * day, "d": 6 * day, "e": 8 * day, "f": 10 * day}, []string{"host-b", "host-c", "host-d", "and 2 more differ"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.stop()
				w.add("a", 1).start()
				w.await(20*time.Second, "it votes", func() bool { return w.allVote("a") })
				k := w.hosts["a"].keeper
				hello := func(clocks clocks) {
					t.Helper()
					for node, ahead := range clocks {
						_, err := k.Hello(t.Context(), link.Identity{Node: node, Voter: node != "proxy"}, &link.Hello{
							Self: &link.Peer{Node: node, Name: "host-" + node}, WallMs: time.Now().Add(ahead).UnixMilli()})
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				hello(c.heard)
				got := k.ClockProblem()
				if (got == "") != (c.says == nil) || strings.Contains(got, "\n") {
					t.Errorf("it says %q, want %q", got, c.says)
				}
				rest := got
				for _, part := range c.says {
					_, after, ok := strings.Cut(rest, part)
					if !ok {
						t.Fatalf("it says %q, want %q", got, c.says)
					}
					rest = after
				}
				right := clocks{}
				for node := range c.heard {
					right[node] = 0
				}
				hello(right)
				if got := k.ClockProblem(); got != "" {
					t.Errorf("all are right again, and it says %q", got)
				}
				hello(c.heard)
				<-time.After(time.Minute)
				if got := k.ClockProblem(); got != "" {
					t.Errorf("nobody was heard for a minute, and it says %q", got)
				}
			})
		})
	}
}

// With an own PKI a wrong clock keeps a host from all others: it says so, and what to do.
func TestCertificatesThatAreNotValidByThisClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.begun("a", "b", "c")
		early := fmt.Errorf("connecting to it: TLS handshake: %w", x509.CertificateInvalidError{Reason: x509.Expired,
			Detail: "current time 1970-01-01T02:00:00Z is before 2026-01-01T00:00:00Z"})
		w.mu.Lock()
		w.refuses = map[string]error{"a": early, "b": early, "c": early} // who is called refuses, too
		w.mu.Unlock()
		k := w.hosts["a"].keeper
		w.await(time.Minute, "it says so", func() bool {
			p := k.ClockProblem()
			return strings.Contains(p, "by the wall clock of this host, 2000-01-01T") && strings.Contains(p, "is not valid") && !strings.Contains(p, "\n")
		})
		log := w.hosts["a"].log.String()
		for _, b := range []string{"b", "c"} {
			if n := strings.Count(log, "set the clock by NTP if it is wrong, else renew that certificate\" address="+address(b)); n > 1 {
				t.Errorf("of %s it is said %d times:\n%s", b, n, log)
			}
		}
		if !strings.Contains(log, "set the clock by NTP if it is wrong") || !strings.Contains(log, "1970-01-01") {
			t.Errorf("the log says\n%s", log)
		}
		// A host that is to join says it where it says what it waits for.
		d := w.add("d", 0, "a", "b", "c")
		d.start()
		w.await(time.Minute, "d says what it waits for", func() bool {
			waits := d.keeper.Status().Waiting
			return strings.Contains(waits, "the clock is wrong, or that certificate has to be renewed") && !strings.Contains(waits, "\n")
		})
		w.mu.Lock()
		w.refuses = nil
		w.mu.Unlock()
		w.await(2*time.Minute, "d votes", func() bool { return w.allVote("a", "b", "c", "d") })
		w.await(10*time.Minute, "a says nothing of it any more", func() bool { return k.ClockProblem() == "" && d.keeper.ClockProblem() == "" })
	})
}
