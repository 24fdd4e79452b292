// Command kahu is the agent and everything that talks to it.
//
// main turns flags into a call and an error into an exit code, and does
// nothing else: the agent is package agent, the guard integrations/guard, and
// every other command goes through localapi/client. There is one file per
// subcommand; exitcodes.go is the one table of exit codes, and errors.go says
// which error ends in which.
//
// To add a command, write newXCommand(*globals) *cobra.Command in a file of its
// own and name it in newRootCommand.
package main
