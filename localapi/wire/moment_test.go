package wire_test

import (
	"math"
	"testing"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func TestMoments(t *testing.T) {
	for text, want := range map[string]*replication.Timestamp{
		"1700000000000":             {PhysicalMs: 1700000000000, Counter: math.MaxUint32},
		"1700000000000.0":           {PhysicalMs: 1700000000000},
		"1.4294967295":              {PhysicalMs: 1, Counter: math.MaxUint32},
		"2023-11-14T22:13:20Z":      {PhysicalMs: 1700000000000, Counter: math.MaxUint32},
		"2023-11-14T23:13:20+01:00": {PhysicalMs: 1700000000000, Counter: math.MaxUint32},
		"2023-11-14T22:13:20.123Z":  {PhysicalMs: 1700000000123, Counter: math.MaxUint32},
		"":                          nil,
		"0":                         nil,
		"-1":                        nil,
		"now":                       nil,
		"1.":                        nil,
		"1.4294967296":              nil,
		"1.-1":                      nil,
		"9223372036854775808":       nil,
		"1960-01-01T00:00:00Z":      nil,
		"2023-11-14":                nil,
	} {
		got, err := wire.ParseMoment(text)
		if (err == nil) != (want != nil) {
			t.Errorf("ParseMoment(%q) gives %v, %v", text, got, err)
			continue
		}
		if want != nil && (got.PhysicalMs != want.PhysicalMs || got.Counter != want.Counter) {
			t.Errorf("ParseMoment(%q) is %v, want %v", text, got, want)
		}
	}
}

func FuzzMoments(f *testing.F) {
	for _, text := range []string{"1700000000000", "1.2", "2023-11-14T22:13:20Z", "now", "."} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := wire.ParseMoment(text)
		if err != nil {
			return
		}
		again, err := wire.ParseMoment(wire.MomentText(at))
		if err != nil || again.PhysicalMs != at.PhysicalMs || again.Counter != at.Counter {
			t.Errorf("%q is %v, and its text %q is %v, %v", text, at, wire.MomentText(at), again, err)
		}
	})
}
