package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Three voters and a proxy are one service: what one agent is told, each of
// the others knows.
func TestEveryAgentIsTheSameService(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	agents := c.Agents

	t.Run("keys", func(t *testing.T) {
		for i, a := range agents {
			want := fmt.Sprintf("revision %d", i)
			if got := must(t, a, "kv", "set", "greeting", "from "+a.Name); got != want {
				t.Errorf("set on %s says %q, want %q", a.Name, got, want)
			}
			for _, other := range agents {
				if got := must(t, other, "kv", "get", "greeting"); got != "from "+a.Name {
					t.Errorf("after a set on %s, %s reads %q", a.Name, other.Name, got)
				}
			}
		}
		last := agents[len(agents)-1]
		if s := kahu(t, last, "kv", "set", "greeting", "x", "--if-revision", "0"); s.code != 1 || !strings.Contains(s.err, "revision is 3") {
			t.Errorf("a failed compare-and-set ends with %d and says %q", s.code, s.err)
		}
		if got := must(t, last, "kv", "get", "greeting", "--revision", "1"); got != "from "+agents[1].Name {
			t.Errorf("revision 1 reads %q", got)
		}
		if s := kahu(t, agents[0], "kv", "get", "no-such-key"); s.code != 2 || s.out != "" {
			t.Errorf("a missing key ends with %d and says %q", s.code, s.out)
		}
	})

	t.Run("locks", func(t *testing.T) {
		for i, a := range agents {
			var grant struct{ wire.Grant }
			out := must(t, a, "lock", "try", "gate", "--ttl", "1m", "--owner", a.Name, "--output", "json")
			if err := json.Unmarshal([]byte(out), &grant); err != nil {
				t.Fatalf("%s: %v", out, err)
			}
			if grant.Token != int64(i) {
				t.Errorf("acquisition %d has fencing token %d", i, grant.Token)
			}
			for _, other := range agents {
				if s := kahu(t, other, "lock", "try", "gate", "--owner", "somebody"); s.code != 3 {
					t.Errorf("a lock held through %s: try on %s ends with %d: %s%s", a.Name, other.Name, s.code, s.out, s.err)
				}
			}
			giver := agents[(i+1)%len(agents)]
			if s := kahu(t, giver, "lock", "unlock", "gate", "--owner", "somebody"); s.code != 3 {
				t.Errorf("unlock by a stranger ends with %d: %s", s.code, s.err)
			}
			must(t, giver, "lock", "unlock", "gate", "--owner", a.Name)
		}
	})

	t.Run("sequences", func(t *testing.T) {
		must(t, agents[0], "seq", "create", "numbers")
		for i := range 3 * len(agents) {
			a := agents[i%len(agents)]
			if got := must(t, a, "seq", "next", "numbers"); got != strconv.Itoa(i+1) {
				t.Errorf("value %d, taken on %s, is %s", i+1, a.Name, got)
			}
		}
		if got, want := must(t, agents[1], "seq", "reserve", "numbers", "5"), "13 17"; got != want {
			t.Errorf("a reserved run is %q, want %q", got, want)
		}
		first := must(t, agents[2], "seq", "next", "numbers", "--idempotency-key", "order-1")
		if again := must(t, agents[3], "seq", "next", "numbers", "--idempotency-key", "order-1"); again != first {
			t.Errorf("the same idempotency key gave %s and then %s", first, again)
		}
	})

	t.Run("status", func(t *testing.T) {
		leaders := 0
		for _, a := range agents {
			var s wire.Status
			if err := json.Unmarshal([]byte(must(t, a, "status", "--output", "json")), &s); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{true: "voter", false: "proxy"}[a.Voter]; s.Role != want || s.Host != a.Name || !s.Ready {
				t.Errorf("%s says of itself: %+v", a.Name, s)
			}
			if a.Voter && s.Voter.Raft == "leader" {
				leaders++
			}
		}
		if leaders != 1 {
			t.Errorf("%d voters say that they lead", leaders)
		}
	})
}

// kahu exec on every agent at once: one at a time runs, in turn, with tokens
// that rise by one.
func TestExecRunsOnExactlyOne(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	dir := t.TempDir()
	// mkdir fails when the folder is there: then another one runs.
	script := `mkdir "$DIR/busy" || { echo "DOUBLED $KAHU_FENCING_TOKEN" >> "$DIR/ledger"; exit 9; }
echo "$KAHU_FENCING_TOKEN $KAHU_LOCK" >> "$DIR/ledger"
rmdir "$DIR/busy"`
	const each = 5
	var group sync.WaitGroup
	for _, a := range c.Agents {
		group.Go(func() {
			for range each {
				cmd := a.Command(bounded(t, time.Minute), "exec", "--lock", "job", "--ttl", "30s", "--wait", "forever", "--", "sh", "-c", script)
				cmd.Env = append(cmd.Env, "DIR="+dir)
				if s := finish(t, cmd); s.code != 0 {
					t.Errorf("exec on %s ends with %d: %s", a.Name, s.code, s.err)
				}
			}
		})
	}
	group.Wait()
	ledger, err := os.ReadFile(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(ledger)), "\n")
	if len(lines) != each*len(c.Agents) {
		t.Fatalf("%d runs left %d lines:\n%s", each*len(c.Agents), len(lines), ledger)
	}
	for i, line := range lines {
		if want := fmt.Sprintf("%d job", i); line != want {
			t.Errorf("line %d is %q, want %q", i, line, want)
		}
	}
}
