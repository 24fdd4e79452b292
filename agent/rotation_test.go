package agent

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent/secret"
)

func TestEachStepOfARotationWaitsForTheOthers(t *testing.T) {
	old, next := secret.Generate(), secret.Generate()
	keys := func(secrets ...secret.Secret) *secret.Keys {
		k, err := secret.New(secrets...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	o, n := old.ID(), next.ID()
	for name, test := range map[string]struct {
		now, next *secret.Keys
		others    [][]string // one for each other agent
		want      string
	}{
		"add, nobody has it yet":            {keys(old), keys(old, next), [][]string{{o}, {o}}, ""},
		"add, somebody has swapped":         {keys(old), keys(old, next), [][]string{{n, o}, {o, n}}, ""},
		"swap before all have added":        {keys(old, next), keys(next, old), [][]string{{o, n}, {o}}, "not accepted by host1"},
		"swap":                              {keys(old, next), keys(next, old), [][]string{{o, n}, {n, o}}, ""},
		"drop before all have swapped":      {keys(next, old), keys(next), [][]string{{n, o}, {o, n}}, "still used by host1"},
		"drop":                              {keys(next, old), keys(next), [][]string{{n, o}, {n}}, ""},
		"all at once":                       {keys(old), keys(next), [][]string{{o}, {o}}, "not accepted by host0, host1"},
		"all at once, alone":                {keys(old), keys(next), nil, ""},
		"somebody does not tell":            {keys(old, next), keys(next, old), [][]string{nil}, "not accepted by host0"},
		"a proxy's in place of a voter's":   {keys(old), keys(next.Proxy()), nil, "cannot take each other's place"},
		"many":                              {keys(old), keys(next), [][]string{{o}, {o}, {o}, {o}, {o}}, "host0, host1, host2 and 2 more"},
		"a proxy's secrets are swapped too": {keys(old.Proxy(), next.Proxy()), keys(next.Proxy(), old.Proxy()), [][]string{{o, n}}, ""},
	} {
		others := make(map[string][]string)
		for i, ids := range test.others {
			others["host"+string(rune('0'+i))] = ids
		}
		err := mayRotate(test.now, test.next, others)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
