package faults_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// parts are what the time without a write consists of when the disk of a leader
// stalls, as the agents' logs tell. They follow each other.
type parts struct {
	// detection: from the stall until the leader falls silent.
	// patience: until another voter has waited for it long enough to ask for votes.
	// refusals: until the one that wins would get a majority, since who has heard the
	// leader lately grants none.
	// lostVotes: until it had the votes in fact: elections that a pre-vote promised
	// and the vote did not keep.
	// opening: until it serves, and from then until somebody was answered.
	detection, patience, refusals, lostVotes, opening, answer time.Duration

	elections int // how often somebody asked for votes after a pre-vote
}

func (p parts) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("silent after %s, others' patience %s, refused because of the leader %s, votes lost %s (%d elections), opening the term %s, answer %s",
		r(p.detection), r(p.patience), r(p.refusals), r(p.lostVotes), p.elections, r(p.opening), r(p.answer))
}

// columns are the parts in order, with their names.
func (p parts) columns() (names []string, values []time.Duration) {
	return []string{"silent after", "patience", "refused", "votes lost", "opening", "answer", "all"},
		[]time.Duration{p.detection, p.patience, p.refusals, p.lostVotes, p.opening, p.answer,
			p.detection + p.patience + p.refusals + p.lostVotes + p.opening + p.answer}
}

// A line is what an agent logged, of what is of interest here.
type line struct {
	Time    time.Time     `json:"time"`
	Message string        `json:"msg"`
	Age     time.Duration `json:"age"`
	Allowed time.Duration `json:"allowed"`
	agent   int
}

// logged returns what the agents have logged since, in order of time.
func (l *lab) logged(since time.Time) (lines []line) {
	l.t.Helper()
	for i, a := range l.c.Agents {
		text, err := os.ReadFile(filepath.Join(a.Dir, "agent.log"))
		if err != nil {
			l.t.Fatal(err)
		}
		scanner := bufio.NewScanner(bytes.NewReader(text))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			one := line{agent: i}
			if json.Unmarshal(scanner.Bytes(), &one) == nil && one.Time.After(since) {
				lines = append(lines, one)
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.Time.Compare(b.Time) })
	return lines
}

// partsOf takes the time from a stall of one agent's disk until an answer apart.
func (l *lab) partsOf(sick int, stalled, answered time.Time) (p parts, err error) {
	var silent, asked, promised, won, leads time.Time
	first := func(at *time.Time, when time.Time) {
		if at.IsZero() {
			*at = when
		}
	}
	for _, one := range l.logged(stalled) {
		switch msg := one.Message; {
		case one.agent == sick && strings.HasPrefix(msg, "the disk of this voter does not answer"):
			first(&silent, one.Time.Add(one.Allowed-one.Age))
		case one.agent == sick:
		case msg == "entering candidate state":
			first(&asked, one.Time)
		case msg == "pre-vote successful, starting election":
			first(&promised, one.Time)
			p.elections++
		case msg == "election won":
			first(&won, one.Time)
		case msg == "leading":
			first(&leads, one.Time)
		}
		if !leads.IsZero() {
			break
		}
	}
	for what, at := range map[string]time.Time{"fell silent": silent, "asked for votes": asked, "was promised votes": promised, "won": won, "led": leads} {
		if at.IsZero() {
			return p, fmt.Errorf("no log tells when somebody %s", what)
		}
	}
	p.detection, p.patience, p.refusals = silent.Sub(stalled), asked.Sub(silent), promised.Sub(asked)
	p.lostVotes, p.opening, p.answer = won.Sub(promised), leads.Sub(won), answered.Sub(leads)
	return p, nil
}

// tableOf is p50, p99 and most of each part.
func tableOf(all []parts) string {
	var text strings.Builder
	names, _ := parts{}.columns()
	for i, name := range names {
		var d []time.Duration
		for _, p := range all {
			_, values := p.columns()
			d = append(d, values[i])
		}
		slices.Sort(d)
		at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1)+0.5)].Round(time.Millisecond) }
		fmt.Fprintf(&text, "\n  %-13s p50 %-8s p99 %-8s most %s", name, at(0.5), at(0.99), at(1))
	}
	return text.String()
}
