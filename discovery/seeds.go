package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/discovery/cloud"
)

// How often names and clouds are asked. An answer may change at any time, and a
// failure may pass at any time: it is tried again for ever.
const (
	askInterval = 30 * time.Second
	askRetryMin = time.Second
	askRetryMax = 30 * time.Second
	askTimeout  = 20 * time.Second
	// maxFound bounds what one entry may stand for.
	maxFound = 512
)

// Seeds turns what an operator wrote into addresses to begin with. An entry is
//
//	HOST:PORT, HOST, ADDRESS    a name stands for all its addresses
//	provider=k8s namespace=…    a cloud's list of hosts; see package cloud
//
// Addresses are known at once; names and clouds are asked in the background,
// again and again. Its methods may be called concurrently.
type Seeds struct {
	fixed   []string
	asked   []*source
	log     *slog.Logger
	lookup  lookup
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // one for each source
}

// lookup finds the addresses of a host: net.Resolver.LookupNetIP for "ip".
type lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// source is an entry whose addresses have to be asked for.
type source struct {
	entry string
	ask   func(ctx context.Context) ([]string, error)
	found atomic.Pointer[[]string] // last answer; nil before the first
}

// NewSeeds reads entries and starts to ask for their addresses; Close ends that.
// port is for entries that name none. An entry that makes no sense is an error.
func NewSeeds(entries []string, port int, logger *slog.Logger) (*Seeds, error) {
	return newSeeds(entries, port, logger, func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	})
}

func newSeeds(entries []string, port int, logger *slog.Logger, find lookup) (*Seeds, error) {
	s := &Seeds{log: logger, lookup: find}
	for _, entry := range entries {
		if err := s.add(strings.TrimSpace(entry), port); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, src := range s.asked {
		s.running.Go(func() { s.follow(src) }) // ends with ctx; Close waits
	}
	return s, nil
}

func (s *Seeds) add(entry string, port int) error {
	if strings.Contains(entry, "=") {
		query, err := cloud.Parse(entry)
		if err != nil {
			return fmt.Errorf("%q: %w", entry, err)
		}
		s.asked = append(s.asked, &source{entry: entry, ask: func(ctx context.Context) ([]string, error) {
			hosts, err := query.Hosts(ctx)
			return withPort(hosts, port), err
		}})
		return nil
	}
	address := withPort([]string{entry}, port)[0]
	if err := CheckAddress(address); err != nil {
		return err
	}
	host, portText, _ := net.SplitHostPort(address) // CheckAddress has done it
	if _, err := netip.ParseAddr(host); err == nil {
		s.fixed = append(s.fixed, address)
		return nil
	}
	s.asked = append(s.asked, &source{entry: address, ask: func(ctx context.Context) ([]string, error) {
		found, err := s.lookup(ctx, host)
		var addresses []string
		for _, ip := range found {
			addresses = append(addresses, net.JoinHostPort(ip.Unmap().String(), portText))
		}
		return addresses, err
	}})
	return nil
}

// withPort completes addresses that have none.
func withPort(hosts []string, port int) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		if _, _, err := net.SplitHostPort(h); err == nil {
			out[i] = h
		} else {
			out[i] = net.JoinHostPort(strings.Trim(h, "[]"), strconv.Itoa(port))
		}
	}
	return out
}

// Addresses returns what is known now, without duplicates. It does not block.
func (s *Seeds) Addresses() []string {
	all := slices.Clone(s.fixed)
	for _, src := range s.asked {
		if found := src.found.Load(); found != nil {
			all = append(all, *found...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Close stops asking and waits for it.
func (s *Seeds) Close() {
	s.cancel()
	s.running.Wait()
}

// follow asks one source for ever. What was found stays while it does not answer.
func (s *Seeds) follow(src *source) {
	retry := askRetryMin
	failed := false
	for s.ctx.Err() == nil {
		wait := askInterval
		found, err := s.askOnce(src)
		switch {
		case err != nil && s.ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				s.log.Warn("other agents are not found there; it is tried again for ever", "join", src.entry, "error", err)
			}
			failed = true
			wait, retry = retry, min(2*retry, askRetryMax)
		default:
			if failed {
				s.log.Info("other agents are found again", "join", src.entry, "count", len(found))
			}
			failed, retry = false, askRetryMin
			if len(found) == 0 {
				wait = 5 * askRetryMin
			}
			src.found.Store(&found)
		}
		timer := time.NewTimer(wait*3/4 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

func (s *Seeds) askOnce(src *source) ([]string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	found, err := src.ask(ctx)
	found = slices.DeleteFunc(found, func(a string) bool { return CheckAddress(a) != nil })
	return found[:min(len(found), maxFound)], err
}
