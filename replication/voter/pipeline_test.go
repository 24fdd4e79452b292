package voter_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/voter"
)

// asked is a raft.AppendPipeline, and a log, that a test plays.
type asked struct {
	sent    atomic.Int32
	answers chan raft.AppendFuture
	grown   chan struct{}
}

func (a *asked) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	a.sent.Add(1)
	return nil, nil
}
func (a *asked) Consumer() <-chan raft.AppendFuture { return a.answers }
func (a *asked) Close() error                       { return nil }
func (a *asked) Beyond(uint64) <-chan struct{}      { return a.grown }

// answer is a raft.AppendFuture.
type answer struct {
	raft.AppendFuture
	args *raft.AppendEntriesRequest
	resp *raft.AppendEntriesResponse
}

func (a answer) Request() *raft.AppendEntriesRequest   { return a.args }
func (a answer) Response() *raft.AppendEntriesResponse { return a.resp }

// What a follower has acknowledged is not told again, until there is something to
// tell or a reason to find out whether it is there.
func TestAPipelineWithNothingToSayRests(t *testing.T) {
	const refresh = time.Minute
	entries := func(prev, commit uint64, n int) *raft.AppendEntriesRequest {
		a := &raft.AppendEntriesRequest{PrevLogEntry: prev, LeaderCommitIndex: commit}
		for i := range n {
			a.Entries = append(a.Entries, &raft.Log{Index: prev + uint64(i) + 1})
		}
		return a
	}
	for name, tc := range map[string]struct {
		before *raft.AppendEntriesRequest // acknowledged, unless
		failed bool                       // it was not
		silent bool                       // or it was sent again since, and there is no answer yet
		now    *raft.AppendEntriesRequest
		wake   func(a *asked, p *voter.TestPipeline)
		sends  bool // at once, without wake
		resend bool // after wake
	}{
		"the commit index is news":          {before: entries(6, 6, 1), now: entries(7, 7, 0), sends: true},
		"all is known, and the log grows":   {before: entries(7, 7, 0), now: entries(7, 7, 0), wake: func(a *asked, _ *voter.TestPipeline) { close(a.grown) }},
		"all is known, and time passes":     {before: entries(7, 7, 0), now: entries(7, 7, 0), wake: func(*asked, *voter.TestPipeline) { time.Sleep(refresh) }, resend: true}, // virtual
		"all is known, a heartbeat fails":   {before: entries(7, 7, 0), now: entries(7, 7, 0), wake: func(_ *asked, p *voter.TestPipeline) { p.HeartbeatFails() }, resend: true},
		"all is known, and Raft has closed": {before: entries(7, 7, 0), now: entries(7, 7, 0), wake: func(_ *asked, p *voter.TestPipeline) { p.Cut() }},
		"leadership is to be handed over":   {before: entries(7, 7, 0), now: entries(7, 7, 0), wake: func(_ *asked, p *voter.TestPipeline) { p.HandOver() }, resend: true},
		"an entry awaits its commit":        {before: entries(7, 6, 0), now: entries(7, 6, 0), sends: true},
		"entries":                           {before: entries(7, 7, 0), now: entries(7, 7, 1), sends: true},
		"the log was cut back":              {before: entries(7, 7, 0), now: entries(6, 6, 0), sends: true},
		"the last one is under way":         {before: entries(7, 7, 0), silent: true, now: entries(7, 7, 0), sends: true},
		"the last one was refused":          {before: entries(7, 7, 0), failed: true, now: entries(7, 7, 0), sends: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &asked{answers: make(chan raft.AppendFuture), grown: make(chan struct{})}
				p := voter.NewTestPipeline(a, refresh)
				defer p.Close()
				send := func(args *raft.AppendEntriesRequest) {
					if _, err := p.AppendEntries(args, &raft.AppendEntriesResponse{}); err != nil {
						t.Error(err)
					}
				}
				send(tc.before)
				a.answers <- answer{args: tc.before, resp: &raft.AppendEntriesResponse{Success: !tc.failed}}
				<-p.Consumer()
				synctest.Wait()
				if tc.silent {
					time.Sleep(refresh) // virtual
					send(tc.before)
				}
				before := a.sent.Load()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					send(tc.now)
				}()
				synctest.Wait()
				if got := a.sent.Load() > before; got != tc.sends {
					t.Fatalf("sent at once: %v, want %v", got, tc.sends)
				}
				if tc.wake != nil {
					select {
					case <-sent:
						t.Fatal("it does not rest")
					default:
					}
					tc.wake(a, p)
				}
				<-sent
				if got := a.sent.Load() > before; got != (tc.sends || tc.resend) {
					t.Fatalf("sent after all: %v, want %v", got, tc.resend)
				}
			})
		})
	}
}

// A leader that rests wakes for a write, and tells a follower that has started again
// what is committed.
func TestAnIdleLeaderTellsWhatIsNew(t *testing.T) {
	c := newCluster(t, three, nil)
	cl := c.client()
	for _, value := range []string{"v1", "v2", "v3"} {
		cl.put("k", value)
		leader := c.leader().v.Load()
		eventually(t, "followers have the write, and nothing more than heartbeats is sent", func() bool {
			for _, n := range c.nodes {
				if n.v.Load().Status().AppliedIndex < leader.Status().AppliedIndex {
					return false
				}
			}
			return leader.Resting() == 2 && leader.Riding() == 2 || !leader.Status().Serving
		})
	}
	leader := c.leader()
	f := c.followers(leader)[0]
	f.stop(0)
	f.start()
	eventually(t, "the follower has learned what is committed", func() bool {
		return f.v.Load().Status().AppliedIndex >= leader.v.Load().Status().AppliedIndex
	})
}
