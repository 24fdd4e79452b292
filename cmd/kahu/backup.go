package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/storage/atomicfile"
)

func newBackupCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Write the state of the whole cluster to a file",
		Long: `Write the state of the whole cluster to a file, or to stdout.

The cluster goes on meanwhile. The backup is consistent, of everything that was
decided before the command began, and is read from a voter that does not lead
where there is one. It has all persistent keys with their history, and all
sequences. It does not have ephemeral keys, sessions, transactions and locks:
a restore gives out fencing tokens above all that were given out before.

It is checked while it is written; FILE appears only when it is whole. Run it on
a host whose agent can vote, as somebody whom the policy lets administer.`,
		Example: `  kahu backup /srv/backups/kahu-$(date +%F).kahubackup
  kahu backup - | ssh safe 'cat >kahu.kahubackup'
  kahu backup verify /srv/backups/kahu-2026-11-23.kahubackup`,
		Args: arguments("FILE|-"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.Contains([]string{"ls", "list", "rm", "remove", "delete", "gc", "create", "take", "full"}, args[0]) {
				return usageError(fmt.Sprintf("kahu backup writes to the file that it is given, and %q looks like a command; for a file of that name write ./%s", args[0], args[0]))
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			c := client.New(client.Options{Socket: g.socket})
			defer c.Close()
			if args[0] == "-" {
				if isTerminal(g.stdout) {
					return usageError("a backup is not for the terminal; redirect stdout, or name a file")
				}
				_, err := takeBackup(ctx, g, c, g.stdout)
				return err
			}
			d, err := backupToFile(ctx, g, c, args[0], force)
			if err != nil {
				return err
			}
			return g.show(d, describeBackup(args[0], d))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists")
	cmd.AddCommand(newBackupVerifyCommand(g))
	return cmd
}

// backupToFile stores the backup when it is whole.
func backupToFile(ctx context.Context, g *globals, c *client.Client, path string, force bool) (d agent.BackupDescription, err error) {
	exists := withCode(exitRefused, fmt.Errorf("%s exists; name another file, or say --force", path))
	// Before a large backup is read for nothing.
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return d, withCode(exitUsage, fmt.Errorf("%s is a directory; name a file, such as %s", path, filepath.Join(path, "kahu.kahubackup")))
	case err == nil && !force:
		return d, exists
	}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return d, withCode(exitUsage, fmt.Errorf("there is no directory %s for the backup; make it, or name another file", filepath.Dir(path)))
	}
	var taken error
	err = atomicfile.Write(path, atomicfile.Options{New: !force}, func(w io.Writer) error {
		d, taken = takeBackup(ctx, g, c, w)
		return taken
	})
	switch {
	case taken != nil:
		return d, taken
	case errors.Is(err, fs.ErrExist) && !force: // made by somebody meanwhile
		return d, exists
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return d, withCode(exitUsage, fmt.Errorf("writing %s: %w", path, err))
	case err != nil:
		return d, withCode(exitRefused, fmt.Errorf("writing %s: %w", path, err))
	}
	return d, nil
}

// takeBackup writes a backup to out and checks what went by.
func takeBackup(ctx context.Context, g *globals, c *client.Client, out io.Writer) (agent.BackupDescription, error) {
	show := newProgress(g.stderr, "backup", 0)
	defer show.end()
	passing, check := io.Pipe()
	type verdict struct {
		d   agent.BackupDescription
		err error
	}
	judged := make(chan verdict, 1)
	go func() { // ends with the pipe
		d, err := agent.VerifyBackup(passing, show.at)
		_, _ = io.Copy(io.Discard, passing) // what was found damaged must not block the writer
		judged <- verdict{d, err}
	}()
	_, err := c.Backup(ctx, io.MultiWriter(out, check))
	_ = check.CloseWithError(err) // nil is the end; always nil
	v := <-judged
	if err != nil {
		return v.d, err
	}
	if v.err != nil {
		return v.d, withCode(exitTemporary, fmt.Errorf("%w; take it again", v.err))
	}
	return v.d, nil
}

func newBackupVerifyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE|-",
		Short: "Read a backup to its end and say whether it is whole",
		Long: `Read a backup to its end and say whether it is whole. It asks no agent.

It ends with 0 when every checksum is right, and with 1 when the file is damaged
or was written by a newer kahu.`,
		Example: `  kahu backup verify kahu.kahubackup
  ssh safe cat kahu.kahubackup | kahu backup verify -`,
		Args: arguments("FILE|-"),
		RunE: func(_ *cobra.Command, args []string) error {
			in, size, err := openBackup(g, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			show := newProgress(g.stderr, "verify", size)
			d, err := agent.VerifyBackup(in, show.at)
			show.end()
			if err != nil {
				return withCode(exitRefused, fmt.Errorf("%s: %w", args[0], err))
			}
			return g.show(d, describeBackup(args[0], d))
		},
	}
}

// openBackup opens a file, or stdin for "-". size is 0 when it is not known.
func openBackup(g *globals, path string) (in io.ReadCloser, size uint64, err error) {
	if path == "-" {
		return io.NopCloser(g.stdin), 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, withCode(exitUsage, fmt.Errorf("reading the backup: %w", err))
	}
	if info, err := f.Stat(); err == nil {
		size = uint64(info.Size())
	}
	return f, size, nil
}

// describeBackup is a backup for people.
func describeBackup(path string, d agent.BackupDescription) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "backup      %s\nof cluster  %s, by %s (%s)\ntaken       %s, at index %d\nlast change %s\nhas         %d keys, %d sequences, %s\nwhole       every checksum is right\n",
			printable(path), printable(dash(d.Cluster)), printable(dash(d.Host)), printable(d.Node), d.Created.Format("2006-01-02 15:04:05 MST"), d.Index,
			d.LastChange.Format("2006-01-02 15:04:05 MST"), d.Keys, d.Sequences, byteText(d.Bytes))
		return err
	}
}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
