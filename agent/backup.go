package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/backup"
	"github.com/kahu-sh/kahu/replication/voter"
)

// backups takes backups of the cluster: when asked to, and on a schedule.
type backups struct {
	a       *agent
	dir     *backup.Dir // nil: none is configured
	cancel  context.CancelFunc
	done    chan struct{} // closed when the schedule has ended; nil without one
	last    prometheus.Gauge
	outcome *prometheus.CounterVec
}

// The metrics of backups, in one table.
var (
	optsBackupLast = prometheus.GaugeOpts{Name: "kahu_backup_last_success_seconds",
		Help: "Wall clock of the last backup that this agent took on schedule, in seconds since 1970; 0: none yet."}
	optsBackups = prometheus.CounterOpts{Name: "kahu_backups_total",
		Help: "Backups that this agent took on schedule, by outcome."}
)

// The pause after a backup that failed, at first and at last, unless the next is
// due before: an agent that starts has no quorum yet.
const (
	firstBackupRetry = time.Second
	lastBackupRetry  = 5 * time.Minute
)

// newBackups prepares backups, and begins the schedule if there is one.
func newBackups(a *agent) (*backups, error) {
	b := &backups{a: a, last: prometheus.NewGauge(optsBackupLast), outcome: prometheus.NewCounterVec(optsBackups, []string{"outcome"})}
	c := a.cfg.Backup
	if c.Dir == "" {
		return b, nil
	}
	var err error
	if b.dir, err = backup.OpenDir(c.Dir); err != nil {
		return nil, err
	}
	a.registry.MustRegister(b.last, b.outcome)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan struct{})
	go b.schedule(ctx, c) // ends with close
	return b, nil
}

// close ends the schedule, and a backup that it is taking.
func (b *backups) close(context.Context) error {
	if b.done != nil {
		b.cancel()
		<-b.done
	}
	return nil
}

// schedule takes a backup whenever the newest in the directory is old enough, so
// that a restart of the agent neither repeats nor skips one.
func (b *backups) schedule(ctx context.Context, c config.Backup) {
	defer close(b.done)
	retry := firstBackupRetry
	for {
		wait := b.due(c, time.Now())
		if wait <= 0 {
			if err := b.takeScheduled(ctx, c); err == nil {
				wait, retry = c.Interval, firstBackupRetry
			} else {
				b.failed(ctx, c, err)
				wait, retry = min(c.Interval, retry), min(2*retry, lastBackupRetry)
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// failed tells of a backup that was not taken. Without a quorum there is nothing
// to take, and that is said elsewhere.
func (b *backups) failed(ctx context.Context, c config.Backup, err error) {
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelError
	if errors.Is(err, replication.ErrUnavailable) {
		level = slog.LevelInfo
	}
	b.outcome.WithLabelValues("failed").Inc()
	b.a.log.Log(ctx, level, "the scheduled backup was not taken", "directory", c.Dir, "error", err)
}

// due is how long there is until the next backup.
func (b *backups) due(c config.Backup, now time.Time) time.Duration {
	all, err := b.dir.List()
	if err != nil {
		b.a.log.Warn("the directory for backups cannot be read", "directory", c.Dir, "error", err)
		return 0
	}
	var newest time.Time
	for _, e := range all {
		if e.Problem == "" && !e.Incomplete && e.At().After(newest) {
			newest = e.At()
		}
	}
	if newest.IsZero() || newest.After(now) { // a clock that was set back must not end backups
		return 0
	}
	return c.Interval - now.Sub(newest)
}

func (b *backups) takeScheduled(ctx context.Context, c config.Backup) error {
	keep := backup.Retention{Keep: c.Keep, MaxAge: c.MaxAge}
	e, err := b.dir.Take(ctx, b.write)
	if err != nil {
		b.collected(c, func() ([]backup.Removal, error) { return b.dir.MakeRoom(err, keep, time.Now()) })
		return err
	}
	b.outcome.WithLabelValues("taken").Inc()
	b.last.SetToCurrentTime()
	b.a.log.Info("backup taken", "path", e.Path, "bytes", e.SizeBytes, "index", e.Index)
	b.collected(c, func() ([]backup.Removal, error) { return b.dir.Collect(keep, time.Now(), false) })
	return nil
}

// collected removes backups, and tells of it.
func (b *backups) collected(c config.Backup, collect func() ([]backup.Removal, error)) {
	gone, err := collect()
	if err != nil {
		b.a.log.Warn("old backups were not removed", "directory", c.Dir, "error", err)
	}
	for _, g := range gone {
		b.a.log.Info("backup removed", "path", g.Path, "reason", g.Reason)
	}
}

// write takes a backup from a follower by preference: it reads everything, and
// the leader has enough to do. An agent without a vote has no state of its own, and
// asks those that have. Once a byte was written there is no other try.
func (b *backups) write(ctx context.Context, out io.Writer) error {
	v := b.a.quorum.voter
	if v == nil {
		return wire.Refuse(wire.Denied, "a proxy may not read the whole cluster; run kahu backup on the host of a voter, "+
			"or name its agent with --socket")
	}
	body := &counted{out: out}
	s, voters := v.Status(), slices.Clone(b.a.quorum.keeper.Voters())
	// Whose vote was taken may not have learned it from its log, or not yet.
	hasVote := slices.Contains(voters, s.NodeID) && !b.a.quorum.keeper.Standby()
	var err error
	if hasVote && s.Leader != s.NodeID {
		if err = b.a.ownBackup(ctx, body); err == nil || body.n > 0 || ctx.Err() != nil || !errors.Is(err, replication.ErrUnavailable) {
			return err
		}
		hasVote = false
	}
	leader := b.a.forward.Leader()
	slices.SortStableFunc(voters, func(a, b string) int { // the leader last
		return cmp.Compare(btoi(a == leader), btoi(b == leader))
	})
	for _, node := range voters {
		if node == s.NodeID {
			continue
		}
		if err = b.a.quorum.pool.Backup(ctx, node, body); err == nil {
			return nil
		}
		if body.n > 0 || ctx.Err() != nil {
			return fmt.Errorf("taking a backup on node %s: %w", node, err)
		}
		b.a.log.Debug("a voter gives no backup", "node", node, "error", err)
	}
	if hasVote || err == nil {
		return b.a.ownBackup(ctx, body)
	}
	return fmt.Errorf("no other voter gave a backup to this agent: %w", err)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ownBackup writes this voter's own state.
func (a *agent) ownBackup(ctx context.Context, out io.Writer) error {
	_, err := a.quorum.voter.Backup(ctx, out, voter.BackupInfo{
		Cluster: a.quorum.keeper.Status().Cluster, Host: a.cfg.NodeName, Version: a.o.Version, Created: time.Now()})
	var notLeader *replication.NotLeaderError
	if errors.As(err, &notLeader) {
		return fmt.Errorf("%w: %w", replication.ErrUnavailable, err)
	}
	return err
}

// counted counts what was written.
type counted struct {
	out io.Writer
	n   int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.out.Write(b)
	c.n += int64(n)
	return n, err
}
