package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/agent/config"
	// The stages of kahu exec leave main before it begins, see there.
	_ "github.com/kahu-sh/kahu/integrations/guard/stage"
)

// version is set by the Makefile.
var version = "unknown"

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	g := &globals{stdin: stdin, stdout: stdout, stderr: stderr}
	var root *cobra.Command
	if len(args) > 0 && args[0] == "exec" {
		// Every guarded command waits for this start: no other command is made.
		root = newRoot(g)
		root.AddCommand(newExecCommand(g))
	} else {
		root = newRootCommand(g)
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return g.finish(root.ExecuteContext(ctx))
}

// globals are the flags that every command has, and the process's streams.
type globals struct {
	socket  string
	output  string
	timeout time.Duration

	stdin          io.Reader
	stdout, stderr io.Writer
}

// The values of --output.
const (
	outputText = "text"
	outputJSON = "json"
)

// defaultTimeout covers an election with room to spare: a leader that dies
// while a command runs is a delay, not an error.
const defaultTimeout = 10 * time.Second

// newRootCommand is the whole program.
func newRootCommand(g *globals) *cobra.Command {
	root := newRoot(g)
	root.AddCommand(
		newAgentCommand(g),
		newExecCommand(g),
		newInstallCommand(g),
		newKeygenCommand(g),
		newKVCommand(g),
		newPostgresCommand(g),
		newLockCommand(g),
		newSeqCommand(g),
		newScriptCommand(g),
		newShellCommand(g),
		newLimitCommand(g),
		newSnapshotCommand(g),
		newKeySpaceCommand(g),
		newRunUnitCommand(g),
		newStatusCommand(g),
		newTopCommand(g),
		newTokenCommand(g),
		newBackupCommand(g),
		newRestoreCommand(g),
		newBenchCommand(g),
		newVersionCommand(g),
		newClusterCommand(g),
		newCompletionCommand(g),
		newManCommand(g),
		newExitCodesTopic(g),
	)
	return root
}

// newRoot is the program without its commands.
func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "kahu",
		Short: "Locks, keys and sequences, kept by an agent on every host",
		Long: `kahu is a small agent that runs on every host. Together the agents are a
coordination service: locks with fencing tokens, a key/value store with
revisions, and ordered sequences.

Start an agent, then guard a command with a lock:

  kahu agent
  kahu exec --lock nightly-report -- /usr/local/bin/report`,
		Example: `  kahu status
  kahu kv set greeting hello
  kahu lock ls
  kahu seq next invoices`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSubcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateFlagGroups(); err != nil {
				return usageError(fmt.Sprintf("%s; see %s --help", together(err), cmd.CommandPath()))
			}
			return g.check()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.socket, "socket", "", "`path` of the agent's Unix socket (default $KAHU_SOCKET, else $XDG_RUNTIME_DIR/kahu/kahu.sock for a user, else /run/kahu/kahu.sock)")
	flags.StringVarP(&g.output, "output", "o", outputText, "`format`: text for people or json for machines")
	flags.DurationVar(&g.timeout, "timeout", defaultTimeout, "give up after this `duration`; a change of leader takes about a second of it")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Sprintf("%v; see %s --help", err, cmd.CommandPath()))
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(newHelpCommand())
	return root
}

// newHelpCommand is kahu help COMMAND, the same as kahu COMMAND --help.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Show the help of a command",
		Example: "  kahu help agent\n  kahu help cluster peers-recover",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if of, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range of.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, c.Name()+"\t"+c.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				if of.HasSubCommands() {
					return noSubcommand(of, rest)
				}
				return usageError(fmt.Sprintf("%s has no commands of its own; see kahu help %s", of.CommandPath(), strings.TrimPrefix(of.CommandPath(), "kahu ")))
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// together says which flags do not go together, in place of cobra's "if any flags
// in the group [a b c] are set none of the others can be; [a b] were all set".
func together(err error) string {
	_, set, _ := strings.Cut(err.Error(), "; [")
	set, _, found := strings.Cut(set, "] were all set")
	if !found {
		return err.Error()
	}
	return "--" + strings.Join(strings.Fields(set), " and --") + " do not go together"
}

// check judges the global flags, before any command runs.
func (g *globals) check() error {
	if g.output != outputText && g.output != outputJSON {
		return usageError(fmt.Sprintf("--output is %q; it is text or json", g.output))
	}
	if g.timeout <= 0 {
		return usageError(fmt.Sprintf("--timeout is %s; it must be longer than nothing, such as 10s", g.timeout))
	}
	return nil
}

// interruptible is ctx until SIGINT or SIGTERM. It is not for every command:
// kahu exec must find signals as they were.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// deadline bounds ctx by --timeout.
func (g *globals) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, g.timeout)
}

// finish says what went wrong in one line on stderr, each problem of a configuration
// in one of its own, and returns the exit code.
func (g *globals) finish(err error) int {
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if problems := (config.Problems)(nil); errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Fprintln(g.stderr, "kahu: "+shortened(p.String()))
		}
		return code
	}
	if line := oneLine(err); line != "" {
		fmt.Fprintln(g.stderr, "kahu: "+line)
	}
	return code
}

// oneLine is the error as one line, or "" when its command has said it already.
func oneLine(err error) string {
	var quiet *quietError
	if errors.As(err, &quiet) {
		return ""
	}
	return shortened(err.Error())
}

// shortened is a text in one line of at most maxLineBytes, or a little more.
func shortened(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", "; ")), " ")
	if len(text) <= maxLineBytes {
		return text
	}
	// A long name stands at the beginning; what to do stands at the end.
	const half = maxLineBytes / 2
	return strings.ToValidUTF8(text[:half], "") + " … " + strings.ToValidUTF8(text[len(text)-half:], "")
}

// maxLineBytes bounds what is said in one line; names can be much longer.
const maxLineBytes = 400

// noSubcommand refuses arguments of a command that only groups others.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 2 // letters; the default counts prefixes only
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		message += fmt.Sprintf(", did you mean %s?", strings.Join(near, " or "))
	}
	return usageError(fmt.Sprintf("%s (see %s --help)", message, cmd.CommandPath()))
}

// arguments returns a check that the command got exactly the named arguments;
// a last name that ends in "..." stands for one or more.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		if len(args) == len(names) || many && len(args) > len(names) {
			return nil
		}
		want := "no arguments"
		if len(names) > 0 {
			want = strings.Join(names, " ")
		}
		return usageError(fmt.Sprintf("%s takes %s, and got %d arguments; see %s --help", cmd.CommandPath(), want, len(args), cmd.CommandPath()))
	}
}

// optionalArgument returns a check that the command got at most that argument.
func optionalArgument(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= 1 {
			return nil
		}
		return usageError(fmt.Sprintf("%s takes at most %s, and got %d arguments; see %s --help", cmd.CommandPath(), name, len(args), cmd.CommandPath()))
	}
}

// first is the optional argument.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// group returns a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noSubcommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(children...)
	return cmd
}
