package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionInfo is what `kahu version` says.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Long:  "Show the version of this program. `kahu status` shows that of the running agent.",
		Args:  arguments(),
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: programVersion(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
			if g.output == outputJSON {
				return json.NewEncoder(g.stdout).Encode(v)
			}
			_, err := fmt.Fprintf(g.stdout, "kahu %s (%s, %s)\n", v.Version, v.Go, v.System)
			return err
		},
	}
}

// programVersion is what the Makefile stamped, else what `go install` recorded.
func programVersion() string {
	if version != "unknown" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return version
}
