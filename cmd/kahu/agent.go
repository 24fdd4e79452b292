package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/integrations/systemd"
)

func newAgentCommand(g *globals) *cobra.Command {
	var printConfig, check bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of this host",
		Long: `Run the agent of this host.

Alone and without flags it makes what it needs, its secret included, and is a
quorum of one. Others join it with the same secret file. Settings come from the
flags, the environment (KAHU_DATA_DIR for --data-dir), and the file that --config
names, in this order.

On SIGHUP (systemctl reload kahu) it reads them again and takes over what it can:
the level of the log, the policy, and the limit on holds. What else was changed
waits for a restart, which costs no lock; kahu status says what that is. Certificates,
tokens and secrets are read again by themselves when their files change.

--check reads the configuration, the secret and the certificates between agents, says
what is wrong with them, and ends.

With --upstream the agent is no part of a cluster of kahu's own: it stands in front of
a Kahuna cluster (kahunakv/kahuna) and speaks its gRPC. Socket, kahu exec and the
commands for locks, keys, sequences, scripts, limits and transactions are the same.
What is different in this upstream mode:
  - Who waits for a lock stands in one line on each host, and the first of each asks
    the cluster again and again, for up to a second between two times.
  - A change whose answer was lost, or was MustRetry, has an unknown outcome (exit
    code 4): Kahuna does not say whether it was made. Reads, locks, values of
    sequences and transactions are asked for again, safely.
  - kahu lock break unlocks with the owner that the cluster shows; its holder learns of
    it with the next renewal, a quarter of its TTL later at most.
  - Leases end by the wall clocks of the cluster's servers: a lock whose host is gone is
    free a second after its TTL, and locks are safe while those clocks differ by less
    than that second. Keep them in step (NTP).
  - Lists of locks, sequences and transactions, lists of 4,096 keys and more by prefix
    (by bucket there is no bound), conditions on deletes, the history of deleted keys,
    kahu cluster and kahu backup are refused.`,
		Example: `  kahu agent
  kahu agent --dev
  kahu agent --bind 10.0.0.1:7350 --join 10.0.0.2:7350,10.0.0.3:7350 --bootstrap-expect 3 --secret-file /etc/kahu/secret
  kahu agent --role proxy --join 10.0.0.1:7350 --secret-file /etc/kahu/secret
  kahu agent --upstream https://kahuna-1:8082,https://kahuna-2:8082 --upstream-ca-file /etc/kahu/kahuna-ca.pem
  kahu agent --print-config >kahu.yaml
  kahu agent --config kahu.yaml --check`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if printConfig {
				_, err := io.WriteString(g.stdout, config.Sample())
				return err
			}
			if cmd.Flags().Changed("output") || cmd.Flags().Changed("timeout") {
				return usageError("kahu agent has no --output and no --timeout")
			}
			cfg, err := config.Load(config.ThisHost(), cmd.Flags())
			if err != nil {
				return withCode(exitConfig, err)
			}
			if cfg, err = agent.SettleRole(cfg); err != nil {
				return withCode(exitConfig, err)
			}
			if check {
				for _, w := range cfg.Warnings {
					fmt.Fprintln(g.stderr, "kahu: warning: "+w)
				}
				if err := agent.CheckFiles(cfg); err != nil {
					return withCode(exitConfig, err)
				}
				return nil
			}
			limitMemory(cfg)
			sockets, err := systemd.Inherit()
			if err != nil {
				return withCode(exitConfig, err)
			}
			manager, err := systemd.NewNotifier()
			if err != nil {
				return withCode(exitConfig, errors.Join(err, sockets.Close()))
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			level := new(slog.LevelVar)
			level.Set(cfg.LogLevel)
			err = agent.Run(ctx, cfg, agent.Options{
				Version: programVersion(), Logger: newLogger(cfg, level, g.stderr), Exit: os.Exit, Ready: func() {},
				ServiceManager: manager, Sockets: sockets,
				Reload: agent.Reload{Asked: hangups, SetLevel: level.Set,
					Load: func() (config.Config, error) { return config.Load(config.ThisHost(), cmd.Flags()) }},
			})
			var unusable *agent.UnusableError
			switch {
			case errors.As(err, &unusable):
				return withCode(exitConfig, err)
			case err != nil:
				return withCode(exitRefused, fmt.Errorf("the agent cannot run: %w", err))
			}
			return nil
		},
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the configuration file with every key at its default, and end")
	cmd.Flags().BoolVar(&check, "check", false, "read the configuration, say what is wrong with it, and end")
	return cmd
}

// newLogger writes to stderr: systemd and containers keep it.
func newLogger(cfg config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
