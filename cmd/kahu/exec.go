package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func newExecCommand(g *globals) *cobra.Command {
	var lock, ttl, wait, grace, contain, reason, name, onLost, pidFile, tokenFile string
	var ephemeral, require, standby, restart, verbose bool
	cmd := &cobra.Command{
		Use:   "exec --lock NAME [flags] -- COMMAND [ARGUMENTS...]",
		Short: "Run a command that lives only while it owns a lock",
		Long: `Run a command that lives only while it owns a lock.

kahu exec waits its turn in line, then starts the command with KAHU_LOCK,
KAHU_FENCING_TOKEN and KAHU_SOCKET in its environment. The agent renews the
lease. When the lease is lost, or nobody could renew it in time, the command and
everything it started get SIGTERM, and SIGKILL after --grace, and are gone before
another may have the lock. The lock is given back when all of them have ended:
what the command leaves behind in the background ends with it.

Signals, the standard streams and all other descriptors are passed on.

It ends as the command ended, by the same signal if it was one; and by itself with
  64   wrong flags, or a --ttl that does not cover --grace
  69   no agent answers on the socket
  71   the guard could not be set up, or not as strictly as --require-contain asks
  75   the lock was not got in time
  76   the lease was lost and the command was stopped
  126  the command cannot be run
  127  the command was not found

--on-lost says what the command gets first: freeze stops it where it is, run:COMMAND
runs a line of sh beside it (with KAHU_COMMAND_PID, and without output). SIGKILL
follows after --grace and before the deadline, whatever is asked for.

--contain says what keeps the command's processes together: pidns is a pid
namespace with a private /proc, needs root, and leaves nothing behind even when
all of kahu exec is killed at once; cgroup is a control group, needs root or a unit
with Delegate=yes, and ends also what runs as another user; pgroup needs no
privilege and follows the processes by their parents. auto is the strongest that
works. In a container all of them end with the container, and the lock is free
at once.`,
		Example: `  kahu exec --lock nightly-report -- /usr/local/bin/report --all
  kahu exec --lock deploy --wait 0 -- ./deploy.sh || echo somebody else does
  kahu exec --lock mailer --standby --restart -- mailer --foreground
  kahu exec --lock db --ttl 15s --grace 2s --require-contain -- postgres -D data`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("there is no command to run; give it behind --, as in: kahu exec --lock NAME -- COMMAND")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			o, err := execOptions(lock, ttl, wait, grace, contain)
			if err != nil {
				return usageError(err.Error())
			}
			if o.OnLost, err = guard.ParseOnLost(onLost); err != nil {
				return usageError(fmt.Sprintf("--on-lost: %v", err))
			}
			o.PIDFile, o.TokenFile = pidFile, tokenFile
			o.Standby, o.Restart, o.Verbose = standby, restart, verbose
			o.RequireContain, o.Command, o.Stderr = require, args, g.stderr
			if o.Socket, err = filepath.Abs(client.DefaultSocket(g.socket)); err != nil {
				return err
			}
			o.Agent = &guardAgent{
				client: client.Options{Socket: o.Socket},
				hold: client.HoldOptions{
					Lock: lock, Ephemeral: ephemeral, TTL: o.TTL, Wait: o.Wait, Grace: o.Grace,
					// Without the arguments: they may hold a secret, and go to every voter's disk.
					Command: cmp.Or(name, args[0]), Reason: reason,
					Process: true, NeedAck: true,
				},
			}
			if code := guard.Run(o); code != exitOK {
				return &quietError{code}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags behind the command are the command's
	f.StringVar(&lock, "lock", "", "the lock's `name`")
	f.StringVar(&ttl, "ttl", "30s", "`length` of the lease: how long an unreachable host keeps the lock")
	f.StringVar(&wait, "wait", wire.Forever, "how long to stand in line: a `duration`, 0 for not at all, or forever")
	f.StringVar(&grace, "grace", "5s", "`time` between SIGTERM and SIGKILL; a part of the lease is kept for it")
	f.StringVar(&contain, "contain", string(guard.Auto), "what keeps its processes together: auto, pidns, cgroup or pgroup")
	f.BoolVar(&require, "require-contain", false, "rather fail than use something weaker than --contain; with auto, than pidns")
	f.BoolVar(&ephemeral, "ephemeral", false, "use the table of locks that is not backed up")
	f.StringVar(&onLost, "on-lost", "term", "what the command gets when the lease is lost: term, kill, freeze, signal:`NAME` or run:COMMAND; SIGKILL follows after --grace")
	f.StringVar(&pidFile, "pid-file", "", "`file` with the pid to send signals to, there while the command runs")
	f.StringVar(&tokenFile, "token-file", "", "`file` with the fencing token, there while the command runs")
	f.BoolVar(&standby, "standby", false, "stay ready: wait for ever, also for the agent, and run when the other is gone")
	f.BoolVar(&restart, "restart", false, "after a lost lease stand in line again, as with --standby, and run the command again under its new token")
	f.BoolVar(&verbose, "verbose", false, "say when the lock is held, and what contains the command")
	f.StringVar(&name, "name", "", "shown in place of the command to whoever asks who holds the lock")
	cmd.MarkFlagsMutuallyExclusive("standby", "wait")
	f.StringVar(&reason, "reason", "", "shown to whoever asks who holds the lock")
	return cmd
}

// execOptions checks what was written.
func execOptions(lock, ttl, wait, grace, contain string) (o guard.Options, err error) {
	if lock == "" {
		return o, errors.New("--lock is missing: name the lock that the command needs")
	}
	o.Lock = lock
	if o.TTL, err = wire.ParseTTL(ttl); err != nil {
		return o, fmt.Errorf("--ttl: %w", err)
	}
	if o.Wait, err = wire.ParseWait(wait); err != nil {
		return o, fmt.Errorf("--wait: %w", err)
	}
	if o.Grace, err = wire.ParseGrace(grace); err != nil {
		return o, fmt.Errorf("--grace: %w", err)
	}
	if o.Contain, err = guard.ParseContainment(contain); err != nil {
		return o, fmt.Errorf("--contain: %w", err)
	}
	return o, nil
}

// guardAgent lets the guard speak through the Go client.
type guardAgent struct {
	client client.Options
	hold   client.HoldOptions
	giveUp time.Time // when the wait that Open began is over; zero before that
}

var _ guard.Agent = (*guardAgent)(nil)

func (a *guardAgent) Open(ctx context.Context, w guard.Witnesses) (guard.Lock, error) {
	o := a.hold
	o.Wait = a.waitLeft()
	o.Pidfds, o.TreeEnds, o.LastEndsTree = w.Pidfds, w.TreeEnds, w.LastEndsTree
	h, err := client.DialHold(ctx, a.client, o)
	if err != nil {
		return nil, guardError(err)
	}
	return guardLock{h}, nil
}

// waitLeft is what is left of --wait: an agent that was restarted is asked anew,
// and the user's patience is not.
func (a *guardAgent) waitLeft() time.Duration {
	if a.hold.Wait <= 0 {
		return a.hold.Wait
	}
	if a.giveUp.IsZero() {
		a.giveUp = time.Now().Add(a.hold.Wait)
	}
	return max(time.Until(a.giveUp).Round(time.Millisecond), 0)
}

// Attach hands the witnesses over again: an agent that was restarted may not find
// them by itself.
func (a *guardAgent) Attach(ctx context.Context, hold string, w guard.Witnesses) (guard.Lock, error) {
	h, err := client.DialAttach(ctx, a.client, hold, w.Pidfds...)
	if errors.Is(err, client.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", guard.ErrUnknownHold, err)
	}
	if err != nil {
		return nil, guardError(err)
	}
	return guardLock{h}, nil
}

// GiveBack unlocks by the hold's id, which is the owner at the quorum.
func (a *guardAgent) GiveBack(ctx context.Context, hold string) error {
	c := client.New(a.client)
	defer c.Close()
	err := c.LockUnlock(ctx, a.hold.Lock, []byte(hold), client.LockOptions{Ephemeral: a.hold.Ephemeral})
	if errors.Is(err, client.ErrNotFound) || errors.Is(err, client.ErrNotOwner) {
		return nil
	}
	return err
}

// guardError says which errors may pass, and gives the others their exit code.
func guardError(err error) error {
	if errors.Is(err, client.ErrNoAgent) || errors.Is(err, client.ErrUnavailable) {
		return fmt.Errorf("%w: %w", guard.ErrUnavailable, err)
	}
	return execError{err}
}

// execError is an error with the exit code of errors.go.
type execError struct{ error }

func (e execError) Unwrap() error { return e.error }
func (e execError) ExitCode() int { return exitCode(e.error) }

// guardLock is a client's hold as the guard sees it.
type guardLock struct{ *client.Hold }

var _ guard.Lock = guardLock{}

// Next passes the client's events on; the agent answers an ack with a renewed
// one (localapi.Hold).
func (l guardLock) Next(ctx context.Context) (guard.Event, error) {
	select {
	case <-ctx.Done():
		return guard.Event{}, context.Cause(ctx)
	case e, ok := <-l.Events():
		if ok {
			return guardEvent(e), nil
		}
	}
	if err := l.Err(); err != nil {
		return guard.Event{}, err
	}
	return guard.Event{}, io.EOF
}

// guardEvent is the same in the guard's words.
func guardEvent(e wire.HoldEvent) guard.Event {
	out := guard.Event{
		State: guard.State(e.Type), Hold: e.Hold, Position: e.Position,
		Deadline: time.Duration(e.DeadlineBoottimeNS), BootID: e.BootID, Reason: e.Reason,
	}
	if e.Token != nil {
		out.Token = *e.Token
	}
	return out
}
