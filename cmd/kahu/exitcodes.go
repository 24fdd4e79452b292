package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes of every command. 64 and above are those of sysexits.h where
// one fits. `kahu exec` passes its command's own code through besides these.
const (
	exitOK          = 0
	exitRefused     = 1
	exitNotFound    = 2
	exitBusy        = 3
	exitUnknown     = 4
	exitUsage       = 64
	exitUnavailable = 69
	exitInternal    = 70
	exitOS          = 71
	exitTemporary   = 75
	exitLeaseLost   = 76
	exitDenied      = 77
	exitConfig      = 78
	exitInterrupted = 130
)

// exitTable is what help and the man page show.
var exitTable = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitRefused, "refused, nothing changed: a condition did not hold, it exists already, it is used up"},
	{exitNotFound, "the key, lock or sequence does not exist"},
	{exitBusy, "the lock is held by another owner"},
	{exitUnknown, "the outcome is unknown: it may have been done; look before asking again"},
	{exitUsage, "wrong flags, arguments or values"},
	{exitUnavailable, "no agent answers on the socket"},
	{exitInternal, "a bug, or an answer that makes no sense"},
	{exitOS, "exec: the guard could not be set up, or not as strictly as required"},
	{exitTemporary, "not done, try again: no quorum in time; exec: the lock was not got in time"},
	{exitLeaseLost, "exec: the lease was lost and the command was stopped"},
	{exitDenied, "the agent's policy does not let you"},
	{exitConfig, "agent: the configuration or the data directory is not usable"},
	{exitInterrupted, "interrupted"},
}

// exitCodesText is the table as text.
func exitCodesText() string {
	var b strings.Builder
	for _, e := range exitTable {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	return b.String()
}

// shownCode is one row of the table as JSON.
type shownCode struct {
	Code    int    `json:"code"`
	Meaning string `json:"meaning"`
}

// exitCodes is the table as JSON.
func exitCodes() any {
	var out struct {
		Codes []shownCode `json:"exit_codes"`
	}
	for _, e := range exitTable {
		out.Codes = append(out.Codes, shownCode{e.code, e.meaning})
	}
	return out
}

// newExitCodesTopic is a help topic: kahu help has it, and it does nothing.
func newExitCodesTopic(g *globals) *cobra.Command {
	const guarded = `
kahu exec ends with its command's own code, or 128 and the number of the
signal that ended it, or 126 or 127 when it could not be started.`
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		// Four spaces or more are kept as they are in a man page.
		Long: "What the exit codes mean.\n\n" + strings.ReplaceAll("\n"+exitCodesText(), "\n  ", "\n    ")[1:] + guarded,
		Args: arguments(),
		RunE: func(*cobra.Command, []string) error { return g.show(exitCodes(), line("%s", exitCodesText()+guarded)) },
	}
}
