package agent_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// On a kernel that does not tell units a rule for one allows nobody anything: that is
// said when the rules are loaded, and of rules without units nothing is asked.
func TestWarnOfUnitsThatTheKernelDoesNotTell(t *testing.T) {
	rules := func(units ...string) *policy.Policy {
		p, err := policy.New([]policy.Rule{{Everyone: true, Allow: []policy.Verb{policy.Read}},
			{UIDs: []uint32{1000}, Units: units, Allow: []policy.Verb{policy.Write}}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		rules *policy.Policy
		tells bool
		err   error
		want  string // in the only line, empty: none
	}{
		"no units":         {rules: rules()},
		"told":             {rules: rules("backup.service"), tells: true},
		"not told":         {rules: rules("backup.service"), want: "run Linux 6.5 or later, or name users or groups"},
		"nobody can say":   {rules: rules("backup.service"), err: errors.New("no sockets left"), want: "no sockets left"},
		"no units, no say": {rules: rules(), err: errors.New("no sockets left")},
	} {
		var out bytes.Buffer
		agent.WarnOfUnits(slog.New(slog.NewTextHandler(&out, nil)), c.rules, func() (bool, error) { return c.tells, c.err })
		lines := strings.Count(out.String(), "level=WARN")
		if lines != min(1, len(c.want)) || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: it said %q, want %q", name, out.String(), c.want)
		}
	}
}
