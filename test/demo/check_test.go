package main

import (
	"fmt"
	"testing"
)

// A check that cannot fail is no check: each fault must show.
func TestJudge(t *testing.T) {
	lines := []string{"a", "b", "c"}
	good := []entry{{"a", 1, 0, "w"}, {"b", 2, 1, "w"}, {"c", 3, 3, "v"}}
	if v := judge(good, lines); !v.once || !v.unique || !v.gapless || !v.rising || v.perWorker["w"] != 2 {
		t.Errorf("a good ledger is judged %+v", v)
	}
	for i, c := range []struct {
		entries []entry
		held    func(verdict) bool
	}{
		{good[:2], func(v verdict) bool { return v.once }},
		{append(good[:3:3], entry{"c", 4, 4, "v"}), func(v verdict) bool { return v.once }},
		{append(good[:3:3], entry{"forged", 4, 4, "v"}), func(v verdict) bool { return v.once }},
		{[]entry{{"a", 1, 0, "w"}, {"b", 1, 1, "w"}, {"c", 2, 2, "w"}}, func(v verdict) bool { return v.unique }},
		{[]entry{{"a", 1, 0, "w"}, {"b", 2, 1, "w"}, {"c", 4, 2, "w"}}, func(v verdict) bool { return v.gapless }},
		{[]entry{{"a", 1, 1, "w"}, {"b", 2, 0, "w"}, {"c", 3, 2, "w"}}, func(v verdict) bool { return v.rising }},
		{[]entry{{"a", 1, 0, "w"}, {"b", 2, 0, "w"}, {"c", 3, 2, "w"}}, func(v verdict) bool { return v.rising }},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			if v := judge(c.entries, lines); c.held(v) {
				t.Errorf("the fault in %+v is not seen: %+v", c.entries, v)
			}
		})
	}
}
