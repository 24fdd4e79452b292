package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// Reload lets a running agent take over a changed configuration, in part: see
// config.Live. Certificates, tokens, the CA of clients and the cluster secret are
// read again by themselves when their files change.
type Reload struct {
	// Asked receives when somebody wants it: SIGHUP.
	Asked <-chan os.Signal
	// Load reads the configuration as it was read at the start.
	Load func() (config.Config, error)
	// SetLevel sets the level of Options.Logger.
	SetLevel func(slog.Level)
}

// unsettled is what the last reload has left to do.
type unsettled struct {
	restart []string // settings that need one
	problem string   // why the file cannot be used, in one line
}

// reloads takes over changed configurations until ctx ends.
func (a *agent) reloads(ctx context.Context) {
	for {
		select {
		case <-a.o.Reload.Asked:
			a.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload reads the configuration again. One that is wrong changes nothing.
func (a *agent) reload() {
	if m := a.o.ServiceManager; m != nil {
		a.report(m.Reloading())
		defer func() { a.report(m.Ready()) }()
	}
	cfg, err := a.o.Reload.Load()
	if err == nil {
		cfg, err = SettleRole(cfg)
	}
	if err != nil {
		a.reloadFailed(err)
		return
	}
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	changed := config.Changed(a.written, cfg.Written)
	left := unsettled{restart: slices.DeleteFunc(slices.Clone(changed), config.Live)}
	live := slices.DeleteFunc(slices.Clone(changed), func(key string) bool { return !config.Live(key) })
	if err := a.takeOver(cfg); err != nil {
		a.reloadFailed(err)
		return
	}
	// What needs a restart stays a difference, and is told each time.
	a.written.LogLevel, a.written.Policy, a.written.Limits.Holds = cfg.Written.LogLevel, cfg.Written.Policy, cfg.Written.Limits.Holds
	if (cfg.Policy == nil) != (a.cfg.Policy == nil) && a.o.Sockets.App == nil {
		// Who may open the socket's file was decided when it was made.
		left.restart = append(left.restart, "policy (it decides the mode of the socket)")
	}
	a.unsettled.Store(&left)
	a.log.Info("the configuration was read again", "changed", text(live), "needs_a_restart", text(left.restart))
}

func (a *agent) reloadFailed(err error) {
	line := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
	a.unsettled.Store(&unsettled{problem: line})
	a.log.Error("the configuration was read again and cannot be used: nothing was changed", "error", line)
}

// takeOver applies what can change while the agent runs, all of it or nothing.
func (a *agent) takeOver(cfg config.Config) error {
	rules, err := a.socketPolicy(cfg)
	if err != nil {
		return err
	}
	if a.kahuna != nil {
		remote, err := remotePolicy(a.cfg.Kahuna.Insecure, cfg, rules)
		if err != nil {
			return err
		}
		a.kahuna.policy.Replace(remote)
	}
	a.policy.Replace(rules)
	a.holds.SetMaxHolds(cfg.Limits.Holds)
	a.o.Reload.SetLevel(cfg.LogLevel)
	return nil
}

// socketPolicy says who may do what on the sockets.
func (a *agent) socketPolicy(cfg config.Config) (*policy.Policy, error) {
	if cfg.Policy != nil {
		a.warnOfUnits(cfg.Policy, caller.TellsUnits)
		return cfg.Policy, nil
	}
	rules := policy.Default(uint32(os.Geteuid()), lookupGroup(socketGroup))
	admins := lookupGroup(adminGroup)
	if admins == nil || a.o.Sockets.Admin == nil {
		return rules, nil
	}
	rules, err := rules.And(policy.Rule{GIDs: []uint32{*admins}, Allow: []policy.Verb{policy.Admin}})
	if err != nil {
		return nil, fmt.Errorf("letting group %s administer: %w", adminGroup, err)
	}
	return rules, nil
}

// warnOfUnits says so when rules name units on a kernel that tells none, which tells
// reports: what they allow they would allow nobody, without a word.
func (a *agent) warnOfUnits(rules *policy.Policy, tells func() (bool, error)) {
	if !rules.NamesUnits() {
		return
	}
	switch ok, err := tells(); {
	case err != nil:
		a.log.Warn("whether this kernel tells the systemd unit of a caller could not be found out: without it, rules of the policy for units match nobody", "error", err)
	case !ok:
		a.log.Warn("this kernel does not tell the systemd unit of a caller, so that rules of the policy for units match nobody: run Linux 6.5 or later, or name users or groups")
	}
}

// remotePolicy says who may do what on the Kahuna wire, besides what tokens may.
// insecure says that it takes everybody.
func remotePolicy(insecure bool, cfg config.Config, rules *policy.Policy) (*policy.Policy, error) {
	if !insecure || cfg.Policy != nil { // then the policy says it: config checks that it does
		return rules, nil
	}
	return rules.And(policy.Rule{Anonymous: true, Allow: []policy.Verb{policy.Admin}})
}

func text(keys []string) string {
	if len(keys) == 0 {
		return "nothing"
	}
	return strings.Join(keys, ", ")
}
