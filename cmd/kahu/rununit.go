package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/cmd/kahu/guarded"
	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/integrations/rununit"
	"github.com/kahu-sh/kahu/integrations/systemd"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/client/hold"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// packagedProgram is what units call.
const packagedProgram = "/usr/bin/kahu"

func newRunUnitCommand(g *globals) *cobra.Command {
	u := runUnit{g: g}
	var ttl, grace string
	var held, released, end, dropIn bool
	cmd := &cobra.Command{
		Use:   "run-unit NAME",
		Short: "Run a systemd service only while this host owns a lock",
		Long: `Run a systemd service only while this host owns a lock: for a unit that cannot be
wrapped in kahu exec, as one of a package that is not to be touched, or one whose
processes talk to systemd themselves. Where kahu exec can be used, use it: it needs
no help of systemd to end what it runs.

It stands in line, starts the unit when the lock is owned, and gives the lock back
when nothing of the unit is left. When the lease cannot be renewed the unit is
stopped, and after --grace killed, before another host may have the lock; it stays
down, and is not restarted without the lock. A unit that is stopped has given its
lock back when systemctl stop returns; another host then starts it.

Once on every host that may run NAME, which is not to be enabled by itself:

  mkdir -p /etc/systemd/system/NAME.service.d
  kahu run-unit --print-drop-in >/etc/systemd/system/NAME.service.d/kahu.conf
  systemctl daemon-reload
  systemctl disable --now NAME.service
  systemctl enable --now kahu-unit@NAME.service

LOCK, TTL and GRACE for it are in /etc/kahu/unit/NAME.env, one a line, when they are
not NAME, 30s and 5s. To stop the unit everywhere, stop kahu-unit@NAME.service on all
hosts, those first that wait.

It ends with
  0   the unit was stopped, or has ended well
  1   the unit was not started, or failed
  64  wrong flags, or a --ttl that does not cover --grace
  71  systemd could not be asked: it takes root, and a host that systemd has booted
  76  the lease was lost and the unit was stopped
  78  the unit has not its drop-in, or does not exist`,
		Example: `  kahu run-unit postgresql
  kahu run-unit --lock reports-db --ttl 1m --grace 15s postgresql
  kahu run-unit --print-drop-in >/etc/systemd/system/postgresql.service.d/kahu.conf`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dropIn {
				return arguments()(cmd, args)
			}
			return arguments("NAME")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if dropIn {
				_, err := io.WriteString(g.stdout, rununit.DropIn(packagedProgram))
				return err
			}
			if u.unit, err = serviceName(args[0]); err != nil {
				return usageError(err.Error())
			}
			switch {
			case held:
				if err := rununit.Held(u.dir, u.unit, boottime.Boottime()); err != nil {
					return withCode(exitRefused, err) // systemd skips the start
				}
				return nil
			case released:
				return u.awaitRelease(cmd.Context())
			case end:
				return u.end(cmd.Context())
			}
			if u.ttl, err = wire.ParseTTL(ttl); err != nil {
				return usageError(fmt.Sprintf("--ttl: %v", err))
			}
			if u.grace, err = wire.ParseGrace(grace); err != nil {
				return usageError(fmt.Sprintf("--grace: %v", err))
			}
			return u.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&u.lock, "lock", "", "the lock's `name` (default NAME)")
	f.StringVar(&ttl, "ttl", "30s", "`length` of the lease: how long an unreachable host keeps the lock")
	f.StringVar(&grace, "grace", "5s", "`time` between the stop and SIGKILL when the lease is lost; twice that is kept of the lease")
	f.BoolVar(&u.ephemeral, "ephemeral", false, "use the table of locks that is not backed up")
	f.StringVar(&u.reason, "reason", "", "shown to whoever asks who holds the lock")
	f.BoolVar(&dropIn, "print-drop-in", false, "print the drop-in that the unit needs, and end")
	f.StringVar(&u.dir, "state-dir", rununit.DefaultDir, "`directory` with what is owned")
	f.BoolVar(&held, "held", false, "for the drop-in: whether the unit may be started")
	f.BoolVar(&released, "released", false, "for the drop-in: wait until the lock was given back")
	f.BoolVar(&end, "end", false, "for kahu-unit@.service: take the unit down, now that nobody keeps its lock")
	for _, name := range []string{"state-dir", "held", "released", "end"} {
		_ = f.MarkHidden(name) // it exists
	}
	cmd.MarkFlagsMutuallyExclusive("print-drop-in", "held", "released", "end")
	return cmd
}

// serviceName is the unit's full name.
func serviceName(name string) (string, error) {
	switch ext := filepath.Ext(name); {
	case name == "" || strings.ContainsAny(name, "/ \t\n"):
		return "", fmt.Errorf("%q is not the name of a unit", name)
	case ext == ".service":
		return name, nil
	case ext == ".socket" || ext == ".timer" || ext == ".mount" || ext == ".target" || ext == ".path" || ext == ".slice" || ext == ".scope":
		return "", fmt.Errorf("%s is not a service, and only services can be run under a lock", name)
	}
	return name + ".service", nil
}

// runUnit is one call of kahu run-unit.
type runUnit struct {
	g                       *globals
	unit, lock, reason, dir string
	ephemeral               bool
	ttl, grace              time.Duration
}

func (u *runUnit) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(u.g.stderr, nil))
}

// run keeps the unit until it is down.
func (u *runUnit) run(ctx context.Context) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	m, err := rununit.Dial(ctx)
	if err != nil {
		return withCode(exitOS, err)
	}
	defer m.Close()
	notify, err := systemd.NewNotifier()
	if err != nil {
		return withCode(exitOS, err)
	}
	u.lock = cmp.Or(u.lock, strings.TrimSuffix(u.unit, ".service"))
	r := &rununit.Runner{
		Unit: u.unit, Lock: u.lock, Ephemeral: u.ephemeral, Grace: u.grace, Manager: m, Dir: u.dir, Logger: u.logger(), Notify: notify,
		Agent: guarded.NewAgent(client.DefaultSocket(u.g.socket), hold.Options{
			Lock: u.lock, Ephemeral: u.ephemeral, TTL: u.ttl, Wait: -1, Grace: rununit.Grace(u.grace),
			Command: u.unit, Reason: u.reason, Process: true, NeedAck: true,
		}),
	}
	err = r.Run(ctx)
	var coded guard.ExitCoder
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rununit.ErrLeaseLost):
		return withCode(exitLeaseLost, err)
	case errors.Is(err, rununit.ErrUnusable):
		return withCode(exitConfig, err)
	case errors.As(err, &coded):
		return withCode(coded.ExitCode(), err)
	}
	return withCode(exitRefused, err)
}

// releasedTimeout bounds how long a stop waits for the lock to be given back.
const releasedTimeout = 30 * time.Second

func (u *runUnit) awaitRelease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releasedTimeout)
	defer cancel()
	m, err := rununit.Dial(ctx)
	if err != nil {
		return withCode(exitOS, err)
	}
	defer m.Close()
	return rununit.AwaitRelease(ctx, m, u.dir, u.unit)
}

// end takes the unit down in the place of a run that was killed.
func (u *runUnit) end(ctx context.Context) error {
	m, err := rununit.Dial(ctx)
	if err != nil {
		return withCode(exitOS, err)
	}
	defer m.Close()
	socket := client.DefaultSocket(u.g.socket)
	return rununit.End(ctx, m, u.dir, u.unit, func(ctx context.Context, rec rununit.Record) error {
		return hold.GiveBack(ctx, hold.Where{Socket: socket}, rec.Lock, rec.Ephemeral, rec.Hold)
	})
}
