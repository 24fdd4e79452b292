package voter

import "time"

const (
	// abandonAfter is how long the log, a flush or apply may hang until nobody
	// waits for this voter any more: an election among the others takes about a
	// second from StallAfter on.
	abandonAfter = 2 * time.Second
	// stallCheck is how often that is looked at.
	stallCheck = 500 * time.Millisecond
)

// watchStall lets go who waits for a voter that hangs: Raft's own loop may be
// stuck in the disk and will not say that another one leads (HAZARDS.md 10).
// It ends when stopping is closed.
func (v *Voter) watchStall() {
	ticker := time.NewTicker(stallCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if v.stalledFor() > abandonAfter {
				v.proposer.Abandon()
			}
		case <-v.stopping:
			return
		}
	}
}
