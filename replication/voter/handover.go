package voter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// handOverRounds is how often each voter is tried: while one is, nothing is
	// written, so that a leader that finds no heir goes without one.
	handOverRounds = 2
	// handOverPause is between two tries: Raft forgets the last one a moment after
	// it has told how that ended.
	handOverPause = 2 * time.Millisecond
	// contactPoll is how often an heir that was not heard lately is looked for.
	contactPoll = 10 * time.Millisecond
	// heirLag is how many entries a voter may miss and still be as good as another:
	// so many are sent in a moment.
	heirLag = 4096
)

// TransferLeadership hands over to node, or to the best one when it is empty. It
// blocks until this voter has ceased to lead, or ctx ends. Requests meanwhile
// are refused as not led.
//
// Raft asks once, by a connection that it has kept from earlier: when the other
// side was restarted since, that fails, and half a second goes until anybody
// notices. It also takes for the best who has the longest log, alive or not. So the
// voters are asked in the order of when they were heard, and asked again.
//
// While Raft asks nothing is written. So a named voter that has not been heard for
// Config.timing.heartbeat is not asked, one that falls silent then is not asked
// again, and none is waited for as long as an election takes (transport.TimeoutNow).
func (v *Voter) TransferLeadership(ctx context.Context, node string) error {
	if node != "" {
		if err := v.awaitContact(ctx, node); err != nil {
			return err
		}
		_, err := v.offer(ctx, []string{node})
		return err
	}
	answering, silent := v.heirs()
	settled, err := v.offer(ctx, answering)
	if !settled && len(silent) > 0 {
		_, err = v.offer(ctx, silent)
	}
	return err
}

// offer asks heirs to lead, one after the other. It is settled when one does, or
// this voter has ceased to lead, or ctx has ended.
func (v *Voter) offer(ctx context.Context, heirs []string) (settled bool, err error) {
	err = errNoHeir
	v.transport.handingOver.Add(1)
	defer v.transport.handingOver.Add(-1)
	for _, heir := range heirs {
		v.transport.contacts.missed(raft.ServerID(heir)) // its pipeline wakes
	}
	hangs := make(map[string]bool)
	for range handOverRounds {
		for _, heir := range heirs {
			if hangs[heir] {
				continue
			}
			began := time.Now()
			err = v.change(ctx, "transferring leadership to "+heir, func() raft.Future {
				return v.raft.LeadershipTransferToServer(raft.ServerID(heir), raft.ServerAddress(heir))
			})
			var notLeader *replication.NotLeaderError
			if err == nil || ctx.Err() != nil || errors.As(err, &notLeader) {
				return true, err
			}
			if v.raft.State() != raft.Leader {
				return true, nil
			}
			last, _ := v.transport.contacts.of(raft.ServerID(heir))
			hangs[heir] = time.Since(began) >= v.cfg.timing.election/2 && last.at.Before(began)
			v.cfg.Logger.Debug("leadership was not handed over yet", "node", v.cfg.NodeID, "to", heir, "error", err)
			select {
			case <-time.After(handOverPause):
			case <-ctx.Done():
				return true, err
			}
		}
	}
	return false, err
}

var errNoHeir = errors.New("there is no other voter to lead")

// awaitContact blocks until node has answered this leader lately. A leader that has
// just won has heard nobody yet. The error says for how long node has been silent.
func (v *Voter) awaitContact(ctx context.Context, node string) error {
	lately := v.cfg.timing.heartbeat
	poll := time.NewTicker(contactPoll)
	defer poll.Stop()
	for began := time.Now(); ; {
		last, ok := v.transport.contacts.of(raft.ServerID(node))
		switch silence := time.Since(last.at); {
		case ok && silence <= lately, v.raft.State() != raft.Leader, node == v.cfg.NodeID:
			return nil // or Raft says why not
		case time.Since(began) <= lately:
		case !ok:
			return fmt.Errorf("%w: voter %s has never answered its leader, so it cannot lead now", replication.ErrUnavailable, node)
		default:
			return fmt.Errorf("%w: voter %s has not answered its leader for %s, so it cannot lead now", replication.ErrUnavailable, node, silence.Round(time.Millisecond))
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for an answer of voter %s: %w", node, context.Cause(ctx))
		}
	}
}

// handOver gives leadership to another voter, if this one leads and there is
// another. It returns when this one has ceased to lead, or ctx ends.
func (v *Voter) handOver(ctx context.Context) error {
	if v.raft.State() != raft.Leader {
		return nil
	}
	err := v.TransferLeadership(ctx, "")
	if errors.Is(err, errNoHeir) {
		return nil
	}
	return err
}

// heirs are the other voters, those heard lately apart from those that were not, and
// of both first who has most of the log.
func (v *Voter) heirs() (answering, silent []string) {
	type heir struct {
		node   string
		silent bool
		lag    uint64 // in steps of heirLag
		since  time.Duration
	}
	var heirs []heir
	last := v.raft.LastIndex()
	for _, s := range v.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter || string(s.ID) == v.cfg.NodeID {
			continue
		}
		h := heir{node: string(s.ID), silent: true}
		if c, ok := v.transport.contacts.of(s.ID); ok {
			h.since = time.Since(c.at)
			h.silent = h.since > v.cfg.timing.heartbeat/2 // heartbeats come five times as often
			h.lag = (last - min(last, c.lastLog)) / heirLag
		}
		heirs = append(heirs, h)
	}
	slices.SortStableFunc(heirs, func(a, b heir) int {
		return cmp.Or(cmp.Compare(a.lag, b.lag), cmp.Compare(a.since, b.since))
	})
	for _, h := range heirs {
		if h.silent {
			silent = append(silent, h.node)
		} else {
			answering = append(answering, h.node)
		}
	}
	return answering, silent
}
