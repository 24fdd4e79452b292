package discovery

import (
	"bytes"
	"context"
	"log" //nolint:depguard // serf and memberlist take no other
	"log/slog"
	"strings"
	"sync"
	"time"
)

// maxSaid bounds what is remembered of lines that are said once: strangers can
// send packets from as many addresses as they like.
const maxSaid = 64

// gossipLog turns the lines that serf and memberlist write into ours. They
// write a line for each packet that they cannot use: what concerns an operator
// is said once for each host, and the rest is for debugging.
type gossipLog struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]bool
	// deaf are probes since deafFrom that were answered by TCP and not by UDP.
	deaf     int
	deafFrom time.Time
}

// Of whom UDP does not reach, each probe says so: one in a second. So many within a
// while are no packets that were lost among others, or a busy host.
const (
	deafProbes = 10
	deafWithin = time.Minute
	udpIsLost  = "UDP probes failed" // of memberlist's text
)

// newGossipLog returns the logger that serf and memberlist are given.
func newGossipLog(l *slog.Logger) *log.Logger {
	return log.New(&gossipLog{log: l, said: make(map[string]bool)}, "", 0)
}

// notable are the lines that concern an operator.
var notable = []struct {
	part    string // of memberlist's text
	message string
}{
	{"unacceptable label", "gossip of another cluster arrives here, and is left alone: hosts of two clusters know each other's address"},
	{"Decrypt packet failed", "gossip under another secret arrives here, and is left alone: a host has another cluster's secret, or an old one"},
	{"Encryption of message failed", "gossip cannot be encrypted"},
}

// Write implements io.Writer for one line of memberlist's.
func (g *gossipLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	for _, n := range notable {
		if strings.Contains(text, n.part) {
			g.once(n.message, sender(text), text)
			return len(line), nil
		}
	}
	if strings.Contains(text, udpIsLost) && g.isDeaf(time.Now()) {
		g.once("gossip's UDP packets do not get through between this agent and another one, although TCP does: see that the agents' port is open for UDP as well", "", text)
	}
	if g.log.Enabled(context.Background(), slog.LevelDebug) {
		g.log.Debug("gossip", "line", text)
	}
	return len(line), nil
}

func (g *gossipLog) isDeaf(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.deafFrom) > deafWithin {
		g.deaf, g.deafFrom = 0, now
	}
	g.deaf++
	return g.deaf >= deafProbes
}

func (g *gossipLog) once(message, from, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := message + " " + from
	if g.said[key] || from != "" && len(g.said) >= maxSaid {
		return
	}
	g.said[key] = true
	if from == "" {
		g.log.Warn(message, "detail", text)
		return
	}
	g.log.Warn(message, "from", from, "detail", text)
}

// sender finds the host in "… from=10.0.0.7:7350". Ports change, hosts do not.
func sender(text string) string {
	_, from, ok := strings.Cut(text, "from=")
	if !ok {
		return "unknown"
	}
	from, _, _ = strings.Cut(from, " ")
	if i := strings.LastIndexByte(from, ':'); i > 0 {
		from = from[:i]
	}
	return from
}
