package agent_test

import (
	"net"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
)

// A port between agents that somebody else has, TCP or UDP, is one line that says
// what to do.
func TestPortTaken(t *testing.T) {
	for network, take := range map[string]func(address string) (close func() error, err error){
		"TCP": func(address string) (func() error, error) {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
		"UDP": func(address string) (func() error, error) {
			l, err := net.ListenPacket("udp", address)
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
	} {
		cfg := load(t, func(f *config.File) { f.Bind = freeAddress(t) })
		release, err := take(cfg.Bind)
		if err != nil {
			t.Fatal(err)
		}
		err = agent.Run(t.Context(), cfg, options(func() { t.Errorf("%s: it is ready", network) }))
		if err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), cfg.Bind) ||
			!strings.Contains(err.Error(), "another --bind address") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", network, err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}
