package guarded

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
)

// What parse takes it takes for what main's command takes it for, and what it does
// not understand it leaves to that.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		line    string
		command string // "": not ok
	}{
		{"--lock l -- sleep 1", "sleep 1"},
		{"--lock=l sleep 1", "sleep 1"},
		{"--lock l --ttl 10s --require-contain --verbose=false sh -c x --lock y", "sh -c x --lock y"},
		{"--socket /s --lock l -- -x", "-x"},
		{"--lock l -- --", "--"},
		{"--lock l --", ""},
		{"--lock l", ""},
		{"--lock", ""},
		{"", ""},
		{"--help", ""},
		{"-h true", ""},
		{"--lock l --no-such true", ""},
		{"-lock l true", ""}, // letters -l, -o and so on, for main
		{"--lock l --verbose=maybe true", ""},
		{"--lock l --output json true", ""},
		{"--lock l --standby --wait 1s true", ""},
	} {
		var f Flags
		command, ok := f.parse(strings.Fields(test.line))
		if ok != (test.command != "") || ok && !slices.Equal(command, strings.Fields(test.command)) {
			t.Errorf("%q: %q, %v", test.line, command, ok)
		}
		if ok && f.lock != "l" {
			t.Errorf("%q: the lock %q", test.line, f.lock)
		}
	}
}

func TestOptions(t *testing.T) {
	var f Flags
	command, ok := f.parse(strings.Fields("--lock l --ttl 20s --wait 0 --grace 1s --contain pgroup --name n --reason r --socket /s true"))
	if !ok {
		t.Fatal("not understood")
	}
	o, err := f.Options(f.socket, command, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if o.TTL != 20*time.Second || o.Wait != 0 || o.Grace != time.Second || o.Contain != guard.PGroup || o.Socket != "/s" {
		t.Errorf("%+v", o)
	}
	if h := o.Agent.(*agent).hold; h.Command != "n" || h.Reason != "r" || !h.NeedAck || !h.Process {
		t.Errorf("%+v", h)
	}
	for _, bad := range []string{"true", "--lock l --ttl x true", "--lock l --grace -1s true", "--lock l --wait no true", "--lock l --contain no true", "--lock l --on-lost no true"} {
		var f Flags
		command, ok := f.parse(strings.Fields(bad))
		if _, err := f.Options("", command, nil); !ok || err == nil {
			t.Errorf("%q: parsed %v, and no error", bad, ok)
		}
	}
}
