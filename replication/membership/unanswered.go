package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"
)

// lonely is how long an agent looks for others before it says that nobody answers:
// hosts that start together find each other sooner.
const lonely = 3 * time.Second

// alertNoProtocol is how a server with TLS that is no agent ends the handshake.
const alertNoProtocol = tls.AlertError(120)

// whyNot says for people why no agent answered at an address, and what to look at.
func whyNot(err error) string {
	var header tls.RecordHeaderError
	var alert tls.AlertError
	var timeout net.Error
	switch {
	case errors.As(err, &header), errors.As(err, &alert) && alert == alertNoProtocol:
		return "what listens there is no agent: name the port of its bind, not one for clients"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: no agent runs there, or its bind is another"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no way there: look at the address and at the network of this host"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer: look whether that host is up, and whether a firewall lets TCP through"
	}
	return "it cannot be talked to"
}

// sayUnanswered tells of an address at which nobody answers while this agent has met
// nobody at all; later that is not worth a line. It needs mu.
func (k *Keeper) sayUnanswered(address string, err error) {
	if len(k.seen) > 0 || time.Since(k.opened) < lonely {
		return
	}
	k.sayOnce("unanswered "+address, slog.LevelWarn, "no agent answers at an address where others are looked for; it is tried for ever",
		"address", address, "reason", whyNot(err), "error", err)
}

// unheard says why this agent has met nobody, "" when it has or does not know. It
// needs mu.
func (k *Keeper) unheard() string {
	if len(k.seen) > 0 {
		return ""
	}
	if len(k.tries) == 0 && len(k.cfg.Seeds) > 0 && !slices.ContainsFunc(k.cfg.Seeds, func(seed string) bool { return seed != k.cfg.Address }) {
		return "join names only this agent itself: name another"
	}
	var silent []string
	for _, address := range slices.Sorted(maps.Keys(k.tries)) {
		switch t := k.tries[address]; {
		case t.failed:
			silent = append(silent, address)
		case t.node != k.cfg.Node:
			return "" // it has just begun to ask
		}
	}
	switch len(silent) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("no agent answers at %s (%s)", silent[0], k.tries[silent[0]].why)
	}
	return fmt.Sprintf("no agent answers at %s (%s) and %d more", silent[0], k.tries[silent[0]].why, len(silent)-1)
}
