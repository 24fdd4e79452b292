package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/test/cluster"
)

// Proxies of one process keep holds, and the log has renewals of hosts, not of
// holds.
func TestBenchHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for seconds")
	}
	hosts, holds, measured := "4", "30", "3s"
	if soak() {
		hosts, holds, measured = "100", "100", "30s"
	}
	c := startCluster(t, cluster.Options{Voters: 3})
	voters := c.Voters()
	joins := strings.Join([]string{voters[0].Bind, voters[1].Bind, voters[2].Bind}, ",")
	out := must(t, voters[0], "bench", "hosts", "--hosts", hosts, "--holds", holds, "--ttl", "8s", "--warmup", "0s", "--duration", measured,
		"--join", joins, "--secret-file", c.SecretFile(), "--output", "json")
	var r struct {
		Entries  float64 `json:"log_entries_per_second"`
		Sessions float64 `json:"session_renewals_per_second"`
		Holds    float64 `json:"hold_renewals_per_second"`
		Lost     int     `json:"lost"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Log(out)
	// The leader's digest is an entry as well; windows of seconds round up.
	if most := r.Sessions + 5; r.Lost != 0 || r.Entries > most || r.Entries >= r.Holds {
		t.Errorf("%d holds lost, and %.1f log entries per second, above %.1f: %s", r.Lost, r.Entries, most, out)
	}
	if s := kahu(t, voters[0], "bench", "hosts", "--hosts", "2"); s.code != 64 || !strings.Contains(s.err, "--secret-file") {
		t.Errorf("hosts without a secret end with %d and say %q", s.code, s.err)
	}
	if s := kahu(t, voters[0], "bench", "hosts", "--rate", "5"); !strings.Contains(s.err, "--rate is for the other loads") {
		t.Errorf("a flag of other loads ends with %d and says %q", s.code, s.err)
	}
}
