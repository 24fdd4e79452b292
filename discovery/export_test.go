package discovery

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/hashicorp/serf/serf"
)

// NewSeedsWith is NewSeeds with another way to look up hosts.
func NewSeedsWith(entries []string, port int, l *slog.Logger, find func(ctx context.Context, host string) ([]netip.Addr, error)) (*Seeds, error) {
	return newSeeds(entries, port, l, find)
}

// Quick makes a Finder hurry, and forget those who are silent after reconnect.
func (c *Config) Quick(reconnect time.Duration) {
	c.timing = timing{alone: 50 * time.Millisecond, settled: 200 * time.Millisecond, maxRetry: 3 * time.Second,
		reconnect: reconnect, probe: 100 * time.Millisecond}
}

// Gossips has a Finder send what it tells in intervals of d.
func (c *Config) Gossips(d time.Duration) { c.timing.probe = 4 * d }

// KeyManager asks other agents for their keys, and changes them, by serf's own means.
func (f *Finder) KeyManager() *serf.KeyManager { return f.serf.KeyManager() }

// Keys are those in use and accepted.
func (f *Finder) Keys() [][]byte { return f.keyring.GetKeys() }

var (
	ParseMember = parseMember
	ParsePeers  = parsePeers
)

// Tags is what s tells.
func (s Self) Tags(cluster string) map[string]string { return s.tags(cluster) }
