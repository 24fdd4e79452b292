package main

import (
	"flag"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/cmd/kahu/guarded"
	"github.com/kahu-sh/kahu/integrations/guard"
)

func newExecCommand(g *globals) *cobra.Command {
	var flags guarded.Flags
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

Signals, the standard streams and all other descriptors are passed on. Sockets of a
systemd.socket are among them, but LISTEN_PID is not the command's. Stopped while it
waits (Ctrl-Z), it lets its turn pass by and stands in line anew.

It ends as the command ended, by the same signal if it was one; and by itself with
  64   wrong flags, or a --ttl that does not cover --grace
  69   no agent answers on the socket
  71   the guard could not be set up, or not as strictly as --require-contain asks
  75   the lock was not got in time
  76   the lease was lost and the command was stopped
  126  the command cannot be run
  127  the command was not found
and as every command does (kahu exit-codes) when the agent refuses.

--on-lost says what the command gets first: freeze stops it where it is, run:COMMAND
runs a line of sh beside it (with KAHU_COMMAND_PID, and without output). SIGKILL
follows after --grace and before the deadline, whatever is asked for.

--contain says what keeps the command's processes together: pidns is a pid
namespace with a private /proc, needs root, and leaves nothing behind even when
all of kahu exec is killed at once; cgroup is a control group, needs root or a unit
with Delegate=yes, and ends also what runs as another user (the agent does it when
all of kahu exec is killed at once); pgroup needs no privilege and follows the
processes by their parents. auto is the strongest of these that works. userns (a
pid namespace without privilege) and ptrace leave nothing behind either, and are
used on request only: setuid programs and debuggers do not work in there.

In a container all of them end with the container, and the lock is free at once.`,
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
			o, err := flags.Options(g.socket, args, g.stderr)
			if err != nil {
				return usageError(err.Error())
			}
			if code := guard.Run(o); code != exitOK {
				return &quietError{code}
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false) // flags behind the command are the command's
	own := flag.NewFlagSet("exec", flag.ContinueOnError)
	flags.Register(own)
	cmd.Flags().AddGoFlagSet(own)
	for _, pair := range guarded.Exclusive {
		cmd.MarkFlagsMutuallyExclusive(pair[0], pair[1])
	}
	return cmd
}
