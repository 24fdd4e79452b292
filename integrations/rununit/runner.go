package rununit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
)

// ErrLeaseLost is wrapped by errors of Run when the unit was stopped because its
// lock was lost.
var ErrLeaseLost = errors.New("the lease was lost and the unit was stopped")

// ErrUnusable is wrapped by errors of Run when the unit cannot be kept as it is.
var ErrUnusable = errors.New("this unit cannot be kept under a lock")

const (
	// watchTime is kept for noticing that something has to be done: a Runner that is
	// stopped is killed then, so that End does it.
	watchTime = time.Second
	// lastCall before the deadline what is left of the unit is killed.
	lastCall = 500 * time.Millisecond
	// releaseTimeout bounds giving the lock back; the agent goes on trying.
	releaseTimeout = 10 * time.Second
	// askTimeout bounds one question to systemd.
	askTimeout = 5 * time.Second
)

// Grace is what a hold needs between the first word to the unit and the deadline:
// once for a Runner that stops the unit, once more for End in its place.
func Grace(grace time.Duration) time.Duration { return 2*grace + watchTime }

// reserve is how long before the deadline a unit is begun to be stopped.
func reserve(grace time.Duration) time.Duration { return Grace(grace) }

// Runner keeps one unit under one lock. All fields are required; Run is called once.
type Runner struct {
	Unit      string // with .service
	Lock      string
	Ephemeral bool
	Grace     time.Duration // between the stop and SIGKILL, when the lease is lost
	Agent     guard.Agent   // its hold has Grace(Runner.Grace)
	Manager   Manager
	Dir       string // DefaultDir
	Logger    *slog.Logger
	// Notify tells the service manager of this process how it is: sd_notify.
	Notify interface {
		Ready() error
		Status(line string) error
	}

	record *recordFile
	hold   *guard.Follower
	stop   *boottime.Timer     // when the unit has to be begun to be stopped
	kill   *boottime.KillTimer // of this process, a little later
	id     string              // of the hold
	rec    Record
}

// Run stands in line, starts the unit when the lock is owned, and returns when the
// unit is down and the lock given back: nil when somebody stopped it or it ended well,
// or ctx ended. The unit is down whenever Run returns.
func (r *Runner) Run(ctx context.Context) (err error) {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	defer r.record.close()
	if r.stop, err = boottime.NewTimer(); err != nil {
		return err
	}
	defer func() { _ = r.stop.Close() }()
	if r.kill, err = boottime.NewKillTimer(); err != nil {
		return err
	}
	defer func() { _ = r.kill.Stop() }()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("opening a pidfd of this process: %w", err)
	}
	witness := os.NewFile(uintptr(self), "pidfd")
	defer witness.Close()

	holding, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	// This process alone is the witness, and proves nothing about the unit: when it
	// is killed the lease runs out, unless End gives the lock back before.
	r.hold = guard.Follow(holding, r.Agent, guard.Witnesses{Pidfds: []*os.File{witness}})
	r.say("waiting for lock " + r.Lock)
	r.report(r.Notify.Ready())
	if err := r.await(ctx); err != nil || ctx.Err() != nil {
		release := r.release()
		if ctx.Err() != nil {
			return release
		}
		return err
	}
	return r.keep(ctx)
}

// prepare finds a unit that can be kept, and sees to it that it is down.
func (r *Runner) prepare(ctx context.Context) error {
	u, err := r.Manager.Unit(ctx, r.Unit)
	if err != nil {
		return err
	}
	if !u.Loaded {
		return fmt.Errorf("%w: systemd does not know %s", ErrUnusable, r.Unit)
	}
	if !slices.Contains(u.BindsTo, Holder(r.Unit)) {
		return fmt.Errorf("%w: %s has not the drop-in that keeps it down without its lock; make it with: mkdir -p /etc/systemd/system/%s.d && "+
			"kahu run-unit --print-drop-in >/etc/systemd/system/%s.d/kahu.conf && systemctl daemon-reload", ErrUnusable, r.Unit, r.Unit, r.Unit)
	}
	if r.record, err = openRecord(r.Dir, r.Unit); err != nil {
		return err
	}
	// A start job may wait for this one (After=): it finds the lock not owned, and
	// does nothing.
	if u.Active != "inactive" && u.Active != "failed" || len(u.Processes) > 0 {
		r.Logger.Warn("the unit runs without its lock and is stopped", "unit", r.Unit, "state", u.Active)
		if err := r.takeDown(ctx, boottime.Boottime()+r.Grace); err != nil {
			r.record.close()
			return err
		}
	}
	return nil
}

// await stands in line until the lock is owned, and its record says so.
func (r *Runner) await(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.hold.Failed():
			return err
		case e := <-r.hold.Events():
			r.id = e.Hold
			switch e.State {
			case guard.Queued:
				r.say(fmt.Sprintf("waiting for lock %s, position %d", r.Lock, e.Position))
			case guard.Held:
				r.hold.Ack()
			case guard.Renewed:
				if e.Deadline == 0 {
					continue
				}
				if err := r.begin(e); err != nil {
					return err
				}
				return nil
			case guard.Lost, guard.Released:
				return fmt.Errorf("the lock %s was not got: %s", r.Lock, e.Reason)
			}
		}
	}
}

// begin owns the lock from here on.
func (r *Runner) begin(e guard.Event) error {
	bootID, err := boottime.BootID()
	if err != nil {
		return err
	}
	if e.BootID != bootID {
		return fmt.Errorf("%w: the agent's deadline is of boot %s, this is boot %s", ErrUnusable, e.BootID, bootID)
	}
	r.rec = Record{Hold: r.id, Lock: r.Lock, Ephemeral: r.Ephemeral, BootID: bootID, GraceNS: r.Grace}
	if err := r.moveDeadline(e.Deadline); err != nil {
		return err
	}
	return r.record.hold()
}

// moveDeadline moves everything that hangs on the deadline.
func (r *Runner) moveDeadline(to time.Duration) error {
	r.rec.DeadlineNS = to
	at := to - reserve(r.Grace)
	return errors.Join(r.record.write(r.rec), r.stop.Set(at), r.kill.Set(at+watchTime/2))
}

// keep starts the unit and watches over it until it is down.
func (r *Runner) keep(ctx context.Context) error {
	starting := make(chan error, 1)
	startCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	go func() { starting <- r.Manager.Start(startCtx, r.Unit) }() // ends with the job, or giveUp
	r.say("owns lock " + r.Lock + ", " + r.Unit + " starts")
	up := false
	for {
		select {
		case err := <-starting:
			starting = nil
			if err != nil {
				return errors.Join(err, r.finish(ctx))
			}
			up = true
			r.say("owns lock " + r.Lock)
			if down, err := r.gaveBack(ctx); down {
				return err
			}
		case e := <-r.hold.Events():
			switch e.State {
			case guard.Renewed:
				if e.Deadline != 0 {
					if err := r.moveDeadline(e.Deadline); err != nil {
						return errors.Join(err, r.finish(ctx))
					}
				}
			case guard.AtRisk:
				r.say("lock " + r.Lock + " is at risk: no quorum answers")
			case guard.Lost, guard.Released:
				return r.lost(ctx, e.Reason)
			}
		case err := <-r.hold.Failed():
			return errors.Join(err, r.finish(ctx))
		case <-r.stop.C:
			if boottime.Boottime() >= r.rec.DeadlineNS-reserve(r.Grace) {
				return r.lost(ctx, "it could not be renewed in time")
			}
		case <-r.Manager.Changed():
			if !up {
				continue // its job says how it ends
			}
			if down, err := r.gaveBack(ctx); down {
				return err
			}
		case <-ctx.Done():
			r.say("stops " + r.Unit)
			return r.finish(ctx)
		}
	}
}

// gaveBack gives the lock back if the unit is down, and says how it ended.
func (r *Runner) gaveBack(ctx context.Context) (down bool, err error) {
	u, err := r.look(ctx)
	switch {
	case err != nil:
		r.Logger.Warn("systemd does not say where the unit stands", "unit", r.Unit, "error", err)
		return false, nil
	case !u.Stopping() && !u.Down():
		return false, nil
	}
	r.Logger.Info("the unit is down, its lock is given back", "unit", r.Unit, "result", u.Result)
	if err := r.release(); err != nil {
		return true, err
	}
	if u.Result != "success" {
		return true, fmt.Errorf("%s ended: %s", r.Unit, u.Result)
	}
	return true, nil
}

// look asks systemd about the unit, and kills what outlived its stop.
func (r *Runner) look(ctx context.Context) (Unit, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	u, err := r.Manager.Unit(ctx, r.Unit)
	if err == nil && u.Left() {
		// KillMode= has spared it: it may not outlive the lock.
		r.Manager.Kill(u.Processes)
	}
	return u, err
}

// lost takes the unit down before the deadline.
func (r *Runner) lost(ctx context.Context, reason string) error {
	r.Logger.Error("the lease is lost: the unit is stopped", "unit", r.Unit, "lock", r.Lock, "reason", reason)
	r.say("lost lock " + r.Lock + ", stops " + r.Unit)
	by := min(boottime.Boottime()+r.Grace, r.rec.DeadlineNS-lastCall)
	_ = r.kill.Set(by + lastCall) // should this process hang, End goes on
	err := r.takeDown(ctx, by)
	if release := r.release(); release != nil {
		r.Logger.Debug("the lock was not given back: it is lost", "error", release)
	}
	return errors.Join(fmt.Errorf("%w: %s", ErrLeaseLost, reason), err)
}

// finish takes the unit down, as long as that takes while the lease is kept, and
// gives the lock back.
func (r *Runner) finish(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	err := r.Manager.Stop(ask, r.Unit)
	cancel()
	for err == nil {
		var u Unit
		if u, err = r.look(ctx); err == nil && (u.Down() || u.Stopping()) {
			return r.release()
		}
		select {
		case e := <-r.hold.Events():
			if e.State == guard.Renewed && e.Deadline != 0 {
				err = r.moveDeadline(e.Deadline)
			} else if e.State == guard.Lost || e.State == guard.Released {
				return r.lost(ctx, e.Reason)
			}
		case <-r.stop.C:
			if boottime.Boottime() >= r.rec.DeadlineNS-reserve(r.Grace) {
				return r.lost(ctx, "it could not be renewed in time")
			}
		case <-r.Manager.Changed():
		}
	}
	// Systemd is asked by force, and not waited for longer than the lease.
	return errors.Join(err, r.takeDown(ctx, boottime.Boottime()+r.Grace), r.release())
}

// takeDown stops the unit and returns when nothing of it is left; from by on what is
// left is killed.
func (r *Runner) takeDown(ctx context.Context, by time.Duration) error {
	return takeDown(context.WithoutCancel(ctx), r.Manager, r.Unit, by)
}

// takeDown is Runner's and End's: stop first, so that systemd does not start it
// again, and then kill.
func takeDown(ctx context.Context, m Manager, unit string, by time.Duration) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	stopped := m.Stop(ask, unit)
	cancel()
	for {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		u, err := m.Unit(ask, unit)
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			return errors.Join(stopped, err)
		case err == nil && (u.Down() || u.Stopping()):
			return nil
		case err == nil && (boottime.Boottime() >= by || stopped != nil || u.Left()):
			m.Kill(u.Processes)
		}
		// Until by, systemd says when something happens; then every look counts.
		t := time.NewTimer(min(max(by-boottime.Boottime(), killEvery), lookEvery))
		select {
		case <-m.Changed():
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// killEvery is between two rounds of SIGKILL: what forks is met again.
const killEvery = 20 * time.Millisecond

// release gives the lock back, now that nothing of the unit is left, and lets go who
// waits for that.
func (r *Runner) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	err := r.hold.Release(ctx)
	if err == nil {
		_ = r.record.write(Record{}) // End has nothing to give back
	}
	_ = r.kill.Stop() // it would kill at the deadline of what is over
	return errors.Join(err, r.record.free())
}

func (r *Runner) say(line string) { r.report(r.Notify.Status(line)) }

func (r *Runner) report(err error) {
	if err != nil {
		r.Logger.Warn("the service manager was not told", "error", err)
	}
}

// End takes a unit down whose Runner is gone, and gives its lock back: systemd runs
// it when the Runner has ended, however that was (ExecStopPost=). giveBack unlocks by
// the hold's id. A unit whose Runner has ended in order is down already, and nothing
// is done.
func End(ctx context.Context, m Manager, dir, unit string, giveBack func(ctx context.Context, rec Record) error) error {
	rec, held, err := read(dir, unit)
	if errors.Is(err, os.ErrNotExist) || held {
		return nil // it was never owned; or another Runner has begun already
	}
	u, unitErr := m.Unit(ctx, unit)
	if err == nil && unitErr == nil && rec.Hold == "" && u.Down() {
		return nil
	}
	by := min(boottime.Boottime()+rec.GraceNS, rec.DeadlineNS-lastCall)
	if err := errors.Join(err, takeDown(ctx, m, unit, by)); err != nil {
		return err
	}
	if rec.Hold == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := giveBack(ctx, rec); err != nil {
		return fmt.Errorf("the unit is down, and its lock will be free when its lease ends: %w", err)
	}
	return nil
}
