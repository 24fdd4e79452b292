package wallclock

import (
	"context"
	"slices"
	"sync"
)

// votes are the offsets of other voters that have answered, and how many voters
// there are, this one included.
type votes struct {
	offsets []int64
	voters  int
}

type verdict int

const (
	unknown verdict = iota // too few have answered
	agrees                 // a majority has about this clock
	differs
)

// verdict counts this host's own clock in.
func (v votes) verdict(offset int64) verdict {
	majority := v.voters/2 + 1
	same := 1
	for _, o := range v.offsets {
		if near(o, offset) {
			same++
		}
	}
	switch {
	case same >= majority:
		return agrees
	case 1+len(v.offsets) >= majority:
		return differs
	}
	return unknown
}

// middle is the median of all clocks, own included; of two, the earlier: a label
// never goes back.
func (v votes) middle(own int64) int64 {
	all := append(slices.Clone(v.offsets), own)
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// ask asks all other voters at once, and returns when ctx ends, all have answered,
// or what has come is enough to trust the own clock.
func (c *Clock) ask(ctx context.Context) votes {
	voters := c.cfg.Voters()
	out := votes{voters: len(voters)}
	if c.cfg.Ask == nil {
		return out
	}
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan *int64, len(voters))
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel() // before the wait
	waiting := 0
	for _, node := range voters {
		if node == c.cfg.Self {
			continue
		}
		waiting++
		// Ends with ctx at the latest, and is waited for.
		asked.Go(func() { answers <- c.askOne(ctx, node) })
	}
	for ; waiting > 0; waiting-- {
		if o := <-answers; o != nil {
			out.offsets = append(out.offsets, *o)
		}
		if _, offset := c.read(); out.verdict(offset) == agrees {
			break
		}
	}
	return out
}

// askOne returns the offset of another voter's wall clock against the time
// elapsed here, nil for none. The answer counts as of half of its way.
func (c *Clock) askOne(ctx context.Context, node string) *int64 {
	before := c.cfg.Elapsed().Milliseconds()
	wall, err := c.cfg.Ask(ctx, node)
	if err != nil || wall.IsZero() {
		return nil
	}
	offset := wall.UnixMilli() - (before+c.cfg.Elapsed().Milliseconds())/2
	return &offset
}
