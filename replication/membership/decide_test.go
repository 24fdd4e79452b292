package membership

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testPatience = patience{gone: 10 * time.Minute, stable: 30 * time.Second}

const aDay = 24 * time.Hour

func voters(list ...seat) []seat { return list }

func at(node, zone string) seat { return seat{node: node, zone: zone} }

func (s seat) dead(d time.Duration) seat { s.silent = d; return s }
func (s seat) pin() seat                 { s.pinned = true; return s }
func (s seat) lead() seat                { s.leads = true; return s }

func by(list ...standby) []standby { return list }

func TestDecide(t *testing.T) {
	a, b, c, d, e := at("a", "").lead(), at("b", ""), at("c", ""), at("d", ""), at("e", "")
	x, y := standby{"x", "", aDay}, standby{"y", "", aDay}
	for _, test := range []struct {
		name string
		p    picture
		want string
	}{
		{"all is well", picture{3, voters(a, b, c), nil, by(x)}, "stay "},
		{"nothing is managed", picture{0, voters(a, b.dead(aDay), c), nil, by(x)}, "stay "},
		{"a voter reboots", picture{3, voters(a, b.dead(9*time.Minute), c), nil, by(x)}, "stay "},
		{"a voter is gone", picture{3, voters(a, b.dead(aDay), c), nil, by(x)}, "invite x"},
		{"nobody is there to replace it", picture{3, voters(a, b.dead(aDay), c), nil, nil}, "stay "},
		{"the standby has just come", picture{3, voters(a, b.dead(aDay), c), nil, by(standby{"x", "", time.Second})}, "stay "},
		{"the replacement catches up", picture{3, voters(a, b.dead(aDay), c), voters(at("x", "")), by(y)}, "stay "},
		{"the replacement went away while it caught up", picture{3, voters(a, b.dead(aDay), c), voters(at("x", "").dead(aDay)), by(y)}, "remove x"},
		{"it was replaced", picture{3, voters(a, b.dead(aDay), c, d), nil, nil}, "remove b"},
		{"it was replaced, and another is shaky", picture{3, voters(a, b.dead(aDay), c.dead(time.Minute), d), nil, nil}, "stay "},
		{"the old one is back", picture{3, voters(a.pin(), b.pin(), c.pin(), d), nil, nil}, "remove d"},
		{"the old one is back, and its substitute leads", picture{3, voters(b.pin(), c.pin(), d.pin(), a), nil, nil}, "move lead b"},
		{"an operator wants four", picture{3, voters(a.pin(), b.pin(), c.pin(), d.pin()), nil, nil}, "stay "},
		{"surplus, but one is shaky", picture{3, voters(a, b, c.dead(time.Minute), d), nil, nil}, "stay "},
		{"no quorum answers", picture{3, voters(a, b.dead(aDay), c.dead(aDay)), nil, by(x, y)}, "stay "},
		{"one grows to three", picture{3, voters(a), nil, by(y, x)}, "invite x"},
		{"one does not grow to two", picture{3, voters(a), nil, by(x)}, "stay "},
		{"two grow to three", picture{3, voters(a, b), nil, by(x)}, "invite x"},
		{"two of five are gone", picture{5, voters(a, b, c, d.dead(aDay), e.dead(aDay)), nil, by(x, y)}, "invite x"},
		{"then there are six", picture{5, voters(a, b, c, d.dead(aDay), e.dead(aDay-time.Hour), at("x", "")), nil, by(y)}, "remove d"},
		{"the emptier zone", picture{3, voters(at("a", "1"), at("b", "2"), at("c", "3").dead(aDay)), nil,
			by(standby{"w", "1", aDay}, standby{"x", "4", aDay})}, "invite x"},
		{"two voters share a zone", picture{3, voters(at("a", "1").lead(), at("b", "1"), at("c", "2")), nil, by(standby{"x", "3", aDay})}, "invite x"},
		{"then the crowded zone gives one", picture{3, voters(at("a", "1").lead(), at("b", "1"), at("c", "2"), at("x", "3")), nil, nil}, "remove b"},
		{"pinned voters stay where they are", picture{3, voters(at("a", "1").lead(), at("b", "1").pin(), at("c", "2")), nil, by(standby{"x", "3", aDay})}, "stay "},
		{"a zone more is no gain", picture{3, voters(at("a", "1").lead(), at("b", "2"), at("c", "3")), nil, by(standby{"x", "4", aDay})}, "stay "},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decide(test.p, testPatience)
			if s := fmt.Sprintf("%v %s", got.kind, got.node); s != test.want {
				t.Fatalf("decided %q (%s), want %q", s, got.why, test.want)
			}
		})
	}
}

// A cluster in which machines come and go: no step costs the quorum, and once
// nothing fails any more the steps end with as many sound voters as can be had.
func TestDecideIsSafeAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type machine struct {
			zone   string
			pinned bool
			down   time.Duration // 0: it is up
		}
		want := rapid.SampledFrom([]int{3, 5}).Draw(t, "want")
		machines := map[string]*machine{}
		var names []string
		for i := range rapid.IntRange(1, 9).Draw(t, "machines") {
			name := string(rune('a' + i))
			names = append(names, name)
			machines[name] = &machine{zone: rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "zone"), pinned: rapid.IntRange(0, 4).Draw(t, "pinned") == 0}
		}
		config := slices.Clone(names[:rapid.IntRange(1, min(len(names), want+2)).Draw(t, "voters")])
		up := func(config []string) (n int) {
			for _, v := range config {
				if machines[v].down == 0 {
					n++
				}
			}
			return n
		}
		look := func() picture {
			p := picture{want: want}
			lead := ""
			for _, v := range config {
				if machines[v].down == 0 && (lead == "" || rapid.Bool().Draw(t, "leads")) {
					lead = v
				}
			}
			for _, n := range names {
				m := machines[n]
				switch {
				case slices.Contains(config, n):
					p.voters = append(p.voters, seat{n, m.zone, n == lead, m.pinned, m.down})
				case m.down == 0 && !m.pinned:
					p.standbys = append(p.standbys, standby{n, m.zone, aDay})
				}
			}
			return p
		}
		act := func() bool {
			had := up(config) >= majority(len(config))
			s := decide(look(), testPatience)
			switch s.kind {
			case invite:
				if slices.Contains(config, s.node) || machines[s.node].down > 0 {
					t.Fatalf("invites %s: %+v", s.node, s)
				}
				config = append(config, s.node)
			case removeVoter:
				if machines[s.node].down == 0 && machines[s.node].pinned {
					t.Fatalf("removes a pinned voter that is there: %+v", s)
				}
				config = slices.DeleteFunc(config, func(n string) bool { return n == s.node })
			}
			if s.kind != stay && (!had || up(config) < majority(len(config))) {
				t.Fatalf("%+v leaves %d of %v up", s, up(config), config)
			}
			return s.kind != stay
		}
		for range rapid.IntRange(0, 30).Draw(t, "events") {
			m := machines[rapid.SampledFrom(names).Draw(t, "machine")]
			m.down = rapid.SampledFrom([]time.Duration{0, 0, time.Minute, time.Hour}).Draw(t, "down")
			if rapid.Bool().Draw(t, "acts") {
				act()
			}
		}
		if up(config) < majority(len(config)) {
			return // the events alone cost it
		}
		for _, m := range machines {
			if m.down > 0 {
				m.down = aDay
			}
		}
		for steps := 0; act(); steps++ {
			if steps > 100 {
				t.Fatalf("does not come to rest: %v", config)
			}
		}
		p := look()
		if up(config) < want && len(p.standbys) >= 2 && up(config)+1 >= majority(len(config)+1) {
			t.Fatalf("rests with %d of %d voters of %v, although %v stand by", up(config), want, config, p.standbys)
		}
	})
}
