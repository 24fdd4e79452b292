package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newCompletionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Write a completion script for your shell",
		Example: `  source <(kahu completion bash)
  kahu completion zsh > "${fpath[1]}/_kahu"
  kahu completion fish > ~/.config/fish/completions/kahu.fish`,
		Args:      arguments("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(g.stdout, true)
			case "zsh":
				return root.GenZshCompletion(g.stdout)
			case "fish":
				return root.GenFishCompletion(g.stdout, true)
			}
			return usageError(fmt.Sprintf("there is no completion for %q; there is for bash, zsh and fish", args[0]))
		},
	}
}

// newManCommand writes the man pages that the packages carry.
func newManCommand(_ *globals) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write man pages into a directory",
		Hidden: true,
		Args:   arguments("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return withCode(exitUsage, fmt.Errorf("making the directory for the man pages: %w", err))
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "kahu " + programVersion(), Manual: "kahu"}, args[0])
		},
	}
}
