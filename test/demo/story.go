package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// When the faults come, in lines that are in the ledger.
const (
	killLeaderAt = 50
	killWorkerAt = 130
)

// A story is one run of the demo.
type story struct {
	began   time.Time
	cluster *cluster.Cluster
	ledger  *ledger
	crew    *crew
	dir     string

	withoutLeader time.Duration // from the leader's death to the next acknowledged write
	handOver      time.Duration // from the holder's death to the next holder's first step
	victim, heir  begun
}

// tell runs the demo from start to end.
func tell(ctx context.Context) (err error) {
	s := &story{began: time.Now()}
	s.dir, err = os.MkdirTemp("", "kahu-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	defer func() {
		if err != nil && s.cluster != nil {
			fmt.Fprintf(os.Stderr, "%s", s.cluster.Logs(10))
		}
		if s.crew != nil {
			s.crew.stop()
		}
		if s.ledger != nil {
			s.ledger.close()
		}
		if s.cluster != nil {
			err = errors.Join(err, s.cluster.Stop())
		}
	}()
	for _, step := range []func(context.Context) error{
		s.start, s.work, s.killLeader, s.killWorker, s.finish, s.staleAppend,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return s.check()
}

// say tells what happens, with the seconds since the start.
func (s *story) say(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// start builds the binary and starts the agents.
func (s *story) start(ctx context.Context) error {
	s.say("building kahu")
	binary, err := cluster.Build(ctx, s.dir)
	if err != nil {
		return err
	}
	s.say("starting three voters on SQLite and a proxy, in %s", s.dir)
	s.cluster, err = cluster.Start(ctx, cluster.Options{Binary: binary, Dir: s.dir, Voters: 3, Proxies: 1, Storage: "sqlite"})
	if err != nil {
		return err
	}
	leader, err := s.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	s.say("all four serve, %s leads", leader.Name)
	c := leader.Dial()
	defer c.Close()
	_, err = c.SequenceCreate(ctx, sequence, wire.SequenceCreate{})
	s.crew = newCrew(s, binary)
	return err
}

// work opens the ledger and sends the workers off.
func (s *story) work(ctx context.Context) error {
	lines := inputLines()
	var err error
	if s.ledger, err = newLedger(ctx, s.dir, lines); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "busy"), nil, 0o600); err != nil {
		return err
	}
	if err := s.crew.start(ctx); err != nil {
		return err
	}
	s.say("%d workers share %d lines; one at a time owns the lock %q", len(s.crew.workers), len(lines), lockName)
	return s.until(ctx, killLeaderAt)
}

// until waits for so many lines in the ledger, and shows the way there.
func (s *story) until(ctx context.Context, lines int) error {
	const every = 10
	for next := s.ledger.appended()/every*every + every; ; next += every {
		next = min(next, lines)
		if err := s.ledger.wait(ctx, func() bool { return len(s.ledger.done) >= next }); err != nil {
			return fmt.Errorf("waiting for line %d: %w", next, err)
		}
		s.say("%3d of %d lines invoiced, fencing token %d", s.ledger.appended(), len(s.ledger.lines), s.ledger.token())
		if next == lines {
			return nil
		}
	}
}

// killLeader kills -9 the leader, measures until the next acknowledged write,
// and starts it again.
func (s *story) killLeader(ctx context.Context) error {
	leader, err := s.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	probe := s.cluster.Proxies()[0].Dial()
	defer probe.Close()
	// A first write, so that the probe's connection is there.
	if _, err := probe.KVSet(ctx, "demo/probe", []byte("before"), client.WriteOptions{}); err != nil {
		return err
	}
	s.say("KILL -9 of the leader, %s (pid %d)", leader.Name, leader.Pid())
	if err := leader.Kill(); err != nil {
		return err
	}
	killed := time.Now()
	if _, err := probe.KVSet(ctx, "demo/probe", []byte("after"), client.WriteOptions{}); err != nil {
		return fmt.Errorf("a write while there was no leader: %w", err)
	}
	s.withoutLeader = time.Since(killed)
	next, err := s.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	s.say("%s leads; the write that was asked for without a leader took %s", next.Name, round(s.withoutLeader))
	s.say("starting %s again; the holds of its host are where they were", leader.Name)
	if err := leader.Start(); err != nil {
		return err
	}
	if err := leader.WaitServing(ctx); err != nil {
		return err
	}
	s.say("%s serves again", leader.Name)
	return nil
}

// killWorker kills -9 a kahu exec whose job owns the lock, and measures from
// the death of the last of them to the first step of the next owner.
func (s *story) killWorker(ctx context.Context) error {
	if err := s.until(ctx, killWorkerAt); err != nil {
		return err
	}
	victim, err := s.ledger.stallNext(ctx)
	if err != nil {
		return err
	}
	s.victim = victim
	pidfd, err := unix.PidfdOpen(int(victim.pid), 0)
	if err != nil {
		return fmt.Errorf("watching job %d: %w", victim.pid, err)
	}
	defer unix.Close(pidfd)
	guard, err := s.crew.guardOf(victim.Worker)
	if err != nil {
		return err
	}
	s.say("KILL -9 of %s's kahu exec (pid %d) and its job (pid %d), which own the lock with token %d",
		victim.Worker, guard, victim.pid, victim.Token)
	if err := errors.Join(unix.Kill(guard, unix.SIGKILL), unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)); err != nil {
		return fmt.Errorf("killing the worker: %w", err)
	}
	if err := waitDead(ctx, pidfd); err != nil {
		return err
	}
	died := time.Now()
	s.heir, err = s.ledger.after(ctx, victim.Token)
	if err != nil {
		return fmt.Errorf("waiting for the next owner: %w", err)
	}
	s.handOver = s.heir.at.Sub(died)
	s.say("%s owns the lock with token %d and began %s after the death", s.heir.Worker, s.heir.Token, round(s.handOver))
	return nil
}

// waitDead blocks until the process of pidfd is dead.
func waitDead(ctx context.Context, pidfd int) error {
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for a death: %w", err)
		}
		if ready > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

// finish waits for the last line and the workers' end.
func (s *story) finish(ctx context.Context) error {
	if err := s.until(ctx, len(s.ledger.lines)); err != nil {
		return err
	}
	if err := s.crew.wait(ctx); err != nil {
		return err
	}
	s.say("the workers found nothing more to do and went home")
	return nil
}

// staleAppend tries what the killed worker might have done, had it only been
// frozen: to append with its old token.
func (s *story) staleAppend(ctx context.Context) error {
	err := askLedger(ctx, filepath.Join(s.dir, "ledger.sock"), "append", entry{Line: "forged", Number: -1, Token: s.victim.Token, Worker: s.victim.Worker}, nil)
	if !errors.Is(err, errStale) {
		return fmt.Errorf("an append with the stale token %d was not refused: %w", s.victim.Token, err)
	}
	s.say("an append in the name of the killed worker is refused: %v", err)
	return nil
}

// round is a duration for people.
func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
