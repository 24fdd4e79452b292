package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

func newInstallCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "install DIRECTORY",
		Short: "Copy this program into a directory, for containers that share it",
		Long: `Copy this program into a directory, for containers that share it.

The image of kahu has nothing in it but kahu: an init container runs this to put the
program where the application's container finds it.`,
		Example: `  kahu install /kahu/bin`,
		Args:    arguments("DIRECTORY"),
		RunE: func(_ *cobra.Command, args []string) error {
			to := filepath.Join(args[0], "kahu")
			if err := installSelf(to); err != nil {
				return withCode(exitRefused, fmt.Errorf("copying kahu to %s: %w", to, err))
			}
			return g.show(map[string]string{"path": to}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, to)
				return err
			})
		},
	}
}

// installSelf copies the running program. Who starts it meanwhile gets the old
// file or the new one, never half of it.
func installSelf(to string) error {
	self, err := os.Open("/proc/self/exe") // os.Executable's path may be gone
	if err != nil {
		return err
	}
	defer self.Close()
	return atomicfile.Write(to, atomicfile.Options{Mode: 0o755}, func(w io.Writer) error {
		_, err := io.Copy(w, self)
		return err
	})
}
