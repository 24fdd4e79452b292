package discovery_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kahu-sh/kahu/discovery"
)

func TestSeeds(t *testing.T) {
	log := &syncBuffer{}
	var there atomic.Bool
	s, err := discovery.NewSeedsWith([]string{"10.0.0.2:7000", "10.0.0.3", "[2001:db8::4]", " 10.0.0.2:7000", "agents.test:7350", "late.test"}, 7777,
		slog.New(slog.NewTextHandler(log, nil)), func(_ context.Context, host string) ([]netip.Addr, error) {
			switch {
			case host == "agents.test":
				return []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("::ffff:10.0.0.6"), netip.MustParseAddr("2001:db8::7")}, nil
			case host == "late.test" && there.Load():
				return []netip.Addr{netip.MustParseAddr("10.0.0.8")}, nil
			}
			return nil, errors.New("no such host")
		})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fixed := []string{"10.0.0.2:7000", "10.0.0.3:7777", "[2001:db8::4]:7777"}
	for _, a := range fixed {
		if !slices.Contains(s.Addresses(), a) { // at once
			t.Errorf("%s is missing in %q", a, s.Addresses())
		}
	}
	await(t, "a name stands for all its addresses", func() bool {
		return slices.Equal(s.Addresses(), []string{"10.0.0.2:7000", "10.0.0.3:7777", "10.0.0.5:7350", "10.0.0.6:7350", "[2001:db8::4]:7777", "[2001:db8::7]:7350"})
	})
	await(t, "what is not found is said", func() bool { return strings.Contains(log.String(), "late.test:7777") })
	there.Store(true)
	await(t, "it is tried again", func() bool { return slices.Contains(s.Addresses(), "10.0.0.8:7777") })
	if n := strings.Count(log.String(), "are not found there"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

func TestRefusedSeeds(t *testing.T) {
	for _, entry := range []string{"10.0.0.1:0", "10.0.0.1:x", "0.0.0.0:7350", "provider=moon", ":7350", "a b:7"} {
		if s, err := discovery.NewSeeds([]string{entry}, 7350, slog.New(slog.DiscardHandler)); err == nil {
			s.Close()
			t.Errorf("%q was accepted", entry)
		}
	}
}
