package voter

import (
	"time"

	"github.com/kahu-sh/kahu/replication/pace"
)

const (
	// abandonAfter is how long the log, a flush or apply may hang until nobody
	// waits for this voter any more: an election among the others takes about a
	// second from StallAfter on.
	abandonAfter = 2 * time.Second
	// stallCheck is how often that is looked at.
	stallCheck = 500 * time.Millisecond
)

// watchStall lets go who waits for a voter that hangs: Raft's own loop may be
// stuck in the disk and will not say that another one leads (HAZARDS.md 10). It
// also tells people, once for each time. It ends when stopping is closed.
func (v *Voter) watchStall() {
	tick := time.NewTimer(pace.Next(stallCheck))
	defer tick.Stop()
	silent := false
	for {
		select {
		case <-tick.C:
			tick.Reset(pace.Next(stallCheck))
			age := v.stalledFor()
			if age > abandonAfter {
				v.proposer.Abandon()
			}
			switch {
			case age > 0 && !silent:
				v.cfg.Logger.Warn("the disk of this voter does not answer, or it applies too slowly: it is silent, so that another one leads; look at the disk and at what else uses this host",
					"node", v.cfg.NodeID, "age", age, "allowed", v.cfg.StallAfter)
			case age == 0 && silent:
				v.cfg.Logger.Info("this voter takes part again: its disk answers", "node", v.cfg.NodeID)
			}
			silent = age > 0
		case <-v.stopping:
			return
		}
	}
}
