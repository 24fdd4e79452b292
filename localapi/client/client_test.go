package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/stream"
)

// What needs an agent is tested in package localapi, against a real socket.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDefaultSocket(t *testing.T) {
	const own = "/run/user/1000/kahu/kahu.sock"
	for _, tc := range []struct {
		name, explicit string
		uid            int
		env            map[string]string
		exists         []string
		want           string
	}{
		{"flag", "/a", 1000, map[string]string{"KAHU_SOCKET": "/b", "XDG_RUNTIME_DIR": "/run/user/1000"}, nil, "/a"},
		{"environment", "", 1000, map[string]string{"KAHU_SOCKET": "/b", "XDG_RUNTIME_DIR": "/run/user/1000"}, nil, "/b"},
		{"user", "", 1000, map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, nil, own},
		{"user with own agent", "", 1000, map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, []string{own, systemSocket}, own},
		{"user of the system's agent", "", 1000, map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, []string{systemSocket}, systemSocket},
		{"user without a runtime directory", "", 1000, nil, nil, systemSocket},
		{"root", "", 0, map[string]string{"XDG_RUNTIME_DIR": "/run/user/0"}, nil, systemSocket},
	} {
		got := defaultSocket(tc.explicit, tc.uid, func(k string) string { return tc.env[k] }, func(p string) bool {
			for _, e := range tc.exists {
				if e == p {
					return true
				}
			}
			return false
		})
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// The offset is zero for one clock, and never makes a deadline later than it is.
func TestBootOffset(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name                  string
		agent, sent, received time.Duration
		want                  time.Duration
	}{
		{"same clock", 1005 * ms, 1000 * ms, 1010 * ms, 0},
		{"at the edges", 1000 * ms, 1000 * ms, 1000 * ms, 0},
		{"agent far ahead", 101_005 * ms, 1000 * ms, 1010 * ms, -100_005 * ms},
		{"agent far behind", 5 * ms, 1000 * ms, 1010 * ms, 995 * ms},
	} {
		got := bootOffset(tc.agent, tc.sent, tc.received)
		if got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		// The agent's reading was taken on our clock between sent and received: an
		// instant so much later must not come out after that.
		if late := tc.agent + time.Second + got; late > tc.received+time.Second {
			t.Errorf("%s: a deadline one second after the reading is at %v", tc.name, late)
		}
	}
}

// Every kind has an error, so that nothing comes through untyped.
func TestEveryKindHasAnError(t *testing.T) {
	for _, k := range wire.Kinds() {
		if sentinels[k] == nil {
			t.Errorf("%s has none", k)
		}
		if err := errorOfKind(k, ""); !errors.Is(err, sentinels[k]) || err.Error() != k.Title() {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// Whether something may have been carried out is never lost.
func TestErrorOfCall(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	alive := context.Background()
	broken := fmt.Errorf("%w: reset", stream.ErrBroken)
	notSent := fmt.Errorf("%w: %w", stream.ErrNotSent, broken)
	for _, tc := range []struct {
		name string
		ctx  context.Context
		err  error
		safe bool
		want error
	}{
		{"answered", alive, &stream.RemoteError{Code: wire.Busy.Number(), Text: "x"}, false, ErrBusy},
		{"answered with what is unknown", alive, &stream.RemoteError{Code: 999, Text: "x"}, false, ErrInternal},
		{"answer too large", alive, &stream.RemoteError{Code: stream.CodeTooLarge}, true, ErrLimit},
		{"too large", alive, fmt.Errorf("%w: %w", stream.ErrNotSent, stream.ErrTooLarge), false, ErrInvalid},
		{"change broken", alive, broken, false, ErrUnknownOutcome},
		{"change not sent", alive, notSent, false, ErrNoAgent},
		{"read broken", alive, broken, true, ErrNoAgent},
		{"change given up", ended, context.Canceled, false, ErrUnknownOutcome},
		{"change given up before it was sent", ended, fmt.Errorf("%w: %w", stream.ErrNotSent, context.Canceled), false, ErrUnavailable},
		{"read given up", ended, context.Canceled, true, ErrUnavailable},
	} {
		err := errorOfCall(tc.ctx, tc.err, tc.safe)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if tc.want != ErrUnknownOutcome && errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%s: said to be unknown", tc.name)
		}
		if strings.Contains(err.Error(), "\n") || tc.ctx.Err() != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %q", tc.name, err)
		}
	}
}
