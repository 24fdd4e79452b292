package discovery_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/discovery"
)

func TestSeeds(t *testing.T) {
	log := &syncBuffer{}
	s, err := discovery.NewSeeds([]string{"10.0.0.2:7000", "10.0.0.3", "[2001:db8::4]", " 10.0.0.2:7000", "localhost:7350", "no-such-host.invalid"}, 7777,
		slog.New(slog.NewTextHandler(log, nil)))
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
	await(t, "localhost is looked up", func() bool {
		return slices.Contains(s.Addresses(), "127.0.0.1:7350") || slices.Contains(s.Addresses(), "[::1]:7350")
	})
	await(t, "what is not found is said", func() bool { return strings.Contains(log.String(), "no-such-host.invalid:7777") })
}

func TestRefusedSeeds(t *testing.T) {
	for _, entry := range []string{"10.0.0.1:0", "10.0.0.1:x", "0.0.0.0:7350", "provider=moon", ":7350", "a b:7"} {
		if s, err := discovery.NewSeeds([]string{entry}, 7350, slog.New(slog.DiscardHandler)); err == nil {
			s.Close()
			t.Errorf("%q was accepted", entry)
		}
	}
}
