package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// Under TLS the servers are checked, by a CA file or the system's roots, and the agent
// says who it is by a token; one that they do not take is told so, and is not ready.
func TestUpstreamUnderTLS(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of the agents' logs:\n%s", c.Logs(25))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	ports, err := cluster.FreePorts(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	voter := c.Voters()[0]
	tokens, secret := filepath.Join(c.Dir, "tokens"), filepath.Join(c.Dir, "token")
	out := must(t, voter, "token", "create", "host", "--file", tokens, "--allow", "read,write,lock,sequence")
	fields := strings.Fields(out)
	write(t, secret, fields[len(fields)-1])
	wrong := filepath.Join(c.Dir, "wrong.token")
	write(t, wrong, "kahu_wrong")
	voter.Args = []string{"--kahuna-listen", ports[0], "--kahuna-token-file", tokens}
	ca := filepath.Join(voter.Dir, "data", "kahuna-cert.pem")
	if err := voter.Start(); err != nil {
		t.Fatal(err)
	}
	if err := voter.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, token, ca string
		notReady        string
	}{
		{"trusted", secret, ca, ""},
		{"wrong", wrong, ca, "token"},
		{"unchecked", secret, "", "certificate"},
	} {
		a, err := c.AddUpstream(row.name, "https://"+ports[0])
		if err != nil {
			t.Fatal(err)
		}
		a.Args = []string{"--upstream-token-file", row.token}
		if row.ca != "" {
			a.Args = append(a.Args, "--upstream-ca-file", row.ca)
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if row.notReady == "" {
			if err := a.WaitServing(ctx); err != nil {
				t.Fatal(err)
			}
			must(t, a, "kv", "set", "k", "v")
			if got := must(t, a, "exec", "--lock", "job", "--", "sh", "-c", "echo ran"); got != "ran" {
				t.Errorf("a guarded command said %q", got)
			}
			continue
		}
		var s said
		err = cluster.Wait(ctx, row.name+" says why it is not ready", func(context.Context) (bool, error) {
			s = kahu(t, a, "status")
			return s.code == 75 && strings.Contains(s.out, row.notReady), nil
		})
		if err != nil {
			t.Errorf("%v; it says %d %s%s", err, s.code, s.out, s.err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
