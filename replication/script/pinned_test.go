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
// processor. A change that is meant needs a feature level; then change the number.
func TestAnswersArePinned(t *testing.T) {
	cases, err := scripttest.Load()
	if err != nil {
		t.Fatal(err)
	}
	h := fnv.New64a()
	for _, c := range cases {
		m := scripttest.NewMemory()
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
	if got := h.Sum64(); got != answers {
		t.Errorf("the answers have the hash %#x, and had %#x", got, uint64(answers))
	}
}

const answers = 0x5b6b83ab221a566e
