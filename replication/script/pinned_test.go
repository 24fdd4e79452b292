package script_test

import (
	"fmt"
	"hash/fnv"
	"testing"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// TestAnswersArePinned fails when a script of the suite gets another answer or
// another price than before: voters of both versions would come apart. It must be
// the same in every build, with the race detector and without, and on every
// processor. A change that is meant needs a feature level; then add its number.
func TestAnswersArePinned(t *testing.T) {
	cases, err := scripttest.Load()
	if err != nil {
		t.Fatal(err)
	}
	for level, want := range answers {
		if got := answersAt(cases, level); got != want {
			t.Errorf("at level %d the answers have the hash %#x, and had %#x", level, got, want)
		}
	}
}

func answersAt(cases []scripttest.Case, level uint32) uint64 {
	h := fnv.New64a()
	for _, c := range cases {
		m := scripttest.NewMemory()
		m.Level = level
		for _, s := range c.Steps {
			m.Advance(s.WaitMS)
			res := m.Run(s.Text, s.Params)
			fmt.Fprintf(h, "%s %d\n", scripttest.Render(res, m.NowMS()), res.Fuel)
		}
	}
	for i := range 2000 {
		x, y := script.Pow(1+float64(i)/97, float64(i%61)/7-3), script.Pow(float64(i)/13, 0.3)
		fmt.Fprintf(h, "%x %x\n", x, y)
	}
	return h.Sum64()
}

// answers are those of each feature level with prices of its own.
var answers = map[uint32]uint64{2: 0x5b6b83ab221a566e, 3: 0x5b6b83ab221a566e, 4: 0x30a106adc8620f2c}
