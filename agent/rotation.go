package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication/pace"
)

// rotationInterval is how often it is looked at whether the secret file is
// another one, or whether the others are ready for what is in it.
const rotationInterval = time.Second

// startRotation follows the secret file, and the files of an own PKI; the result ends that.
func (a *agent) startRotation() (stop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(done)
		var following sync.WaitGroup
		if a.identity.PKI() != nil {
			following.Go(func() { a.followFiles(ctx) })
		}
		a.rotateSecret(ctx)
		following.Wait()
	}()
	return func(context.Context) error {
		cancel()
		<-done
		return nil
	}
}

// rotateSecret follows the secret file until ctx ends. An operator adds a second
// secret to it on all hosts, then puts the new one first, then drops the old one,
// in any order of hosts: each agent takes a step when every other one that it
// knows is ready for it, and waits until then.
func (a *agent) rotateSecret(ctx context.Context) {
	tick := time.NewTimer(pace.Next(rotationInterval))
	defer tick.Stop()
	said := ""
	var seen os.FileInfo // the file that was taken over; nil: not yet
	for {
		select {
		case <-tick.C:
			tick.Reset(pace.Next(rotationInterval))
		case <-ctx.Done():
			return
		}
		info, err := os.Stat(a.cfg.SecretFile)
		if err == nil && seen != nil && os.SameFile(info, seen) && info.ModTime().Equal(seen.ModTime()) && info.Size() == seen.Size() {
			continue
		}
		if err == nil {
			err = a.followSecret()
		}
		switch {
		case err == nil:
			said, seen = "", info
		case err.Error() != said:
			said = err.Error()
			a.log.Warn("the secret file has changed, and the secrets in use stay as they were for now", "file", a.cfg.SecretFile, "in_use", a.identity.Keys().IDs(), "reason", err)
		}
	}
}

// followSecret takes over what the secret file has now, when that is safe. The
// error is why it is not, in one line.
func (a *agent) followSecret() error {
	next, err := secret.Read(a.cfg.SecretFile, secretRole(a.cfg))
	if err != nil {
		return err
	}
	now := a.identity.Keys()
	if slices.Equal(next.IDs(), now.IDs()) {
		return nil
	}
	if err := mayRotate(now, next, a.peerKeys()); err != nil {
		return err
	}
	if pki := a.identity.PKI(); pki != nil && !a.cfg.PKI.AcceptSecret { // gossip takes them over by itself
		a.identity.keys.Store(next)
		a.log.Info("the gossip keys were changed", "in_use", next.IDs()[0], "accepted", next.IDs())
		return nil
	}
	if err := a.secure(next, nil); err != nil {
		return err
	}
	dropped := slices.ContainsFunc(now.IDs(), func(id string) bool { return !slices.Contains(next.IDs(), id) })
	if dropped {
		a.quorum.drop() // connections made under it
	}
	a.log.Info("the secrets were changed", "in_use", next.IDs()[0], "accepted", next.IDs(), "dropped", dropped)
	return nil
}

// peerKeys are the ids of the secrets that the other agents accept, the one in
// use first, by what to call the agent.
func (a *agent) peerKeys() map[string][]string {
	known := make(map[string][]string)
	for _, h := range a.quorum.keeper.Heard() {
		if h.Node != a.identity.node {
			known[h.Name+" ("+h.Node+")"] = h.KeyIDs
		}
	}
	for _, m := range a.quorum.gossip.members() {
		if m.Alive && m.Node != a.identity.node {
			known[m.Name+" ("+m.Node+")"] = m.KeyIDs // sooner than by a hello
		}
	}
	return known
}

// mayRotate refuses a step after which some agent and this one would not
// understand each other: everybody has to accept what this one uses, and this
// one what everybody uses.
func mayRotate(now, next *secret.Keys, others map[string][]string) error {
	if next.IsVoter() != now.IsVoter() {
		return errors.New("a voter's secret and a proxy's cannot take each other's place while the agent runs: restart it")
	}
	use := next.IDs()[0]
	var refusing, using []string
	for name, ids := range others {
		if !slices.Contains(ids, use) {
			refusing = append(refusing, name)
		} else if !slices.Contains(next.IDs(), ids[0]) {
			using = append(using, name)
		}
	}
	switch {
	case len(refusing) > 0 && use != now.IDs()[0]:
		return fmt.Errorf("not yet: secret %s is not accepted by %s; add it to their secret files as the last line first, or, if they are to be shut out, restart this agent", use, some(refusing))
	case len(using) > 0:
		return fmt.Errorf("not yet: a secret that would be dropped is still used by %s; put the new one first in their secret files, or, if they are to be shut out, restart this agent", some(using))
	}
	return nil
}

// some names the first few of many, in a fixed order.
func some(names []string) string {
	slices.Sort(names)
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}
