package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication/stream"
)

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
		got := path(tc.explicit, tc.uid, func(k string) string { return tc.env[k] }, func(p string) bool {
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

// Every kind has an error, so that nothing comes through untyped.
func TestEveryKindHasAnError(t *testing.T) {
	for _, k := range holdwire.Kinds() {
		if sentinels[k] == nil {
			t.Errorf("%s has none", k)
		}
		if err := ErrorOfKind(k, ""); !errors.Is(err, sentinels[k]) || err.Error() != k.Title() {
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
		{"answered", alive, &stream.RemoteError{Code: holdwire.Busy.Number(), Text: "x"}, false, ErrBusy},
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
		err := ErrorOfCall(tc.ctx, tc.err, tc.safe)
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

// Who is stopped takes connections as before, since the kernel does.
func TestDialOfAStoppedAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, path, nil, nil)
	if !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "does not answer in time") {
		t.Errorf("it is said so: %v", err)
	}
}
