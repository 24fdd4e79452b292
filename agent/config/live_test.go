package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kahu-sh/kahu/agent/config"
)

// The sample marks the settings that a running agent takes over, and no others.
func TestTheSampleMarksWhatIsLive(t *testing.T) {
	var marked, all []string
	comment, group := "", ""
	for line := range strings.Lines(config.Sample()) {
		text := strings.TrimSpace(line)
		switch {
		case text == "":
			comment = ""
			continue
		case strings.HasPrefix(text, "#"):
			if text == line[:len(text)] {
				comment += text
			}
			continue
		}
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			t.Fatalf("this line is no setting: %q", line)
		}
		key := name
		if strings.HasPrefix(line, " ") {
			key = group + "." + name
		} else {
			group = name
		}
		if strings.TrimSpace(value) == "" {
			continue // a group
		}
		all = append(all, key)
		if strings.Contains(line, "[reload]") || !strings.HasPrefix(line, " ") && strings.Contains(comment, "[reload]") {
			marked = append(marked, key)
		}
	}
	live := slices.DeleteFunc(slices.Clone(all), func(key string) bool { return !config.Live(key) })
	if d := cmp.Diff(live, marked); d != "" || len(live) < 3 {
		t.Errorf("live (-) and marked with [reload] in the sample (+) differ:\n%s", d)
	}
}

func TestChanged(t *testing.T) {
	before := config.Defaults()
	if got := config.Changed(before, before); got != nil {
		t.Errorf("between the same two: %q", got)
	}
	after := config.Defaults()
	after.Join, after.KahunaListen = nil, nil // was empty
	if got := config.Changed(before, after); got != nil {
		t.Errorf("an empty list and none: %q", got)
	}
	after.Bind, after.Join, after.Limits.Holds, after.Timeouts.Request = "127.0.0.1:1", []string{"a:1"}, 5, "1s"
	after.Policy = []config.FileRule{{Everyone: true, Allow: []string{"read"}}}
	want := []string{"bind", "join", "policy", "limits.holds", "timeouts.request"}
	if got := config.Changed(before, after); !slices.Equal(got, want) {
		t.Errorf("changed %q, want %q", got, want)
	}
	other := after
	other.Policy = []config.FileRule{{Everyone: true, Allow: []string{"write"}}}
	if got := config.Changed(after, other); !slices.Equal(got, []string{"policy"}) {
		t.Errorf("another rule: %q", got)
	}
}
