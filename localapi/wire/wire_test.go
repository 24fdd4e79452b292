package wire_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func TestDecode(t *testing.T) {
	long := strings.Repeat(" ", wire.MaxJSONBytes)
	for _, tc := range []struct{ name, text, says string }{
		{"good", `{"lock":"a","ttl":"1s"}`, ""},
		{"spaces around", " {\"lock\":\"a\"}\r\n ", ""},
		{"replacement character written", `{"lock":"` + "\uFFFD" + `"}`, ""},
		{"surrogate pair", `{"lock":"\ud83d\ude00"}`, ""},
		{"empty", "", "empty"},
		{"blank", " \n", "empty"},
		{"null", "null", "object"},
		{"array", "[]", "object"},
		{"text", `"a"`, "object"},
		{"unknown", `{"x":1}`, `"x"`},
		{"other case", `{"LOCK":"a"}`, `"LOCK"`},
		{"folded case", `{"loc` + "\u212A" + `":"a"}`, "unknown field"},
		{"twice", `{"lock":"a","lock":"a"}`, "twice"},
		{"twice, escaped", `{"lock":"a","loc\u006b":"b"}`, "twice"},
		{"behind", `{"lock":"a"} x`, "behind"},
		{"second object", `{}{}`, "behind"},
		{"cut", `{"lock":"a"`, "broken"},
		{"cut in a name", `{"lo`, "broken"},
		{"comma", `{"lock":"a",}`, "broken"},
		{"number for text", `{"lock":1}`, `"lock"`},
		{"text for number", `{"tree_ends":"yes"}`, `"tree_ends"`},
		{"not UTF-8", "{\"lock\":\"\xff\"}", "UTF-8"},
		{"lone surrogate", `{"lock":"\ud800"}`, "surrogate"},
		{"deep", strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50), "nests deeper"},
		{"deep array", `{"a":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + "}", "nests deeper"},
		{"large", `{"lock":"a"}` + long, "limit"},
	} {
		var v wire.HoldRequest
		err := wire.Decode([]byte(tc.text), &v)
		switch {
		case tc.says == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: got %v, want an error that says %q", tc.name, err, tc.says)
		}
	}
}

// What Decode takes survives encoding, and a second decoding.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"lock":"a","ttl":"30s","wait":"forever","tree_ends":true}`))
	f.Add([]byte(`{"lock":"\ud83d\ude00","lock":null}`))
	f.Add([]byte(`{"a":[{"b":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second wire.HoldRequest
		if wire.Decode(data, &first) != nil {
			return
		}
		text, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Decode(text, &second); err != nil || first != second {
			t.Fatalf("%q became %q: %v", data, text, err)
		}
	})
}

func TestNames(t *testing.T) {
	for _, tc := range []struct{ name, says string }{
		{"a", ""}, {strings.Repeat("x", 1024), ""}, {"jobs/ü/日本", ""}, {" ", ""}, {"a/../b//", ""},
		{"", "empty"}, {strings.Repeat("x", 1025), "1025"}, {"a\x00", "byte 1"}, {"\n", "control"}, {"a\x7f", "control"},
		{"a\u0085", "control"}, {"\xff", "UTF-8"},
	} {
		err := wire.CheckName("key", tc.name)
		if (tc.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%.20q: %v, want %q", tc.name, err, tc.says)
		}
	}
	if wire.CheckPrefix("prefix", "") != nil || wire.CheckStoredName("lock", "a\x00") != nil || wire.CheckStoredName("lock", "") == nil ||
		wire.CheckStoredName("lock", strings.Repeat("x", 65537)) == nil {
		t.Error("prefix or stored name")
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"1ms": time.Millisecond, "30s": 30 * time.Second, "24h": 24 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := wire.ParseTTL(text); err != nil || got != want {
			t.Errorf("TTL %q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "0s", "-1s", "1ns", "24h0m0.001s", "30", "s", "forever", "1e9s", strings.Repeat("9", 100) + "s", "9223372036854775807s"} {
		if got, err := wire.ParseTTL(text); err == nil {
			t.Errorf("TTL %q: taken as %v", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "5s": 5 * time.Second, "1000h": 1000 * time.Hour, "forever": -1} {
		if got, err := wire.ParseWait(text); err != nil || got != want {
			t.Errorf("wait %q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1s", "ever"} {
		if got, err := wire.ParseWait(text); err == nil {
			t.Errorf("wait %q: taken as %v", text, got)
		}
	}
	for _, text := range []string{"-1s", "25h"} {
		if got, err := wire.ParseGrace(text); err == nil {
			t.Errorf("grace %q: taken as %v", text, got)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"a\nb\x00": "a b ", "\xff": "?", strings.Repeat("ü", 200): strings.Repeat("ü", 128), "x" + strings.Repeat("ü", 200): "x" + strings.Repeat("ü", 127)} {
		if got := wire.Text(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "in"))
		if got := wire.Text(in); len(got) > wire.MaxTextBytes || wire.CheckPrefix("text", got) != nil {
			t.Fatalf("%q became %q", in, got)
		}
	})
}

func TestOwnersComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owner := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 1, 256), rapid.Just([]byte("hex:00")), rapid.Just([]byte("me"))).Draw(t, "owner")
		back, err := wire.OwnerBytes(wire.OwnerText(owner))
		if err != nil || string(back) != string(owner) {
			t.Fatalf("%q became %q, %v", owner, back, err)
		}
	})
	for _, text := range []string{"", "hex:", "hex:0", "hex:zz", strings.Repeat("x", 257)} {
		if _, err := wire.OwnerBytes(text); err == nil {
			t.Errorf("%q: taken", text)
		}
	}
}

// Every kind is complete and told apart, and every code of the contract has one.
func TestKinds(t *testing.T) {
	numbers := make(map[uint32]bool)
	for _, k := range wire.Kinds() {
		if numbers[k.Number()] || k.Number() == 0 || wire.KindOfNumber(k.Number()) != k {
			t.Errorf("%s: number %d", k, k.Number())
		}
		numbers[k.Number()] = true
		if k.Status() < 400 || k.Status() > 599 || k.Title() == "" {
			t.Errorf("%s: status %d, title %q", k, k.Status(), k.Title())
		}
		if p := wire.Refuse(k, "d").Problem("r"); p.Code != k || p.Status != k.Status() || p.Type != "urn:kahu:problem:"+string(k) || p.Detail != "d" || p.RequestID != "r" {
			t.Errorf("%s: %+v", k, p)
		}
	}
	for number, name := range replication.Code_name {
		code := replication.Code(number)
		internal := code == replication.Code_CODE_OK || code == replication.Code_CODE_PROPOSE_AGAIN
		if got := wire.KindOfCode(code); (got == wire.Internal) != internal {
			t.Errorf("%s is %s", name, got)
		}
	}
	if wire.KindOfNumber(0) != wire.Internal || wire.KindOfNumber(1<<31+1) != wire.Internal || wire.Kind("new").Status() != 500 {
		t.Error("what is unknown is not internal")
	}
}

func TestErrorOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want wire.Kind
	}{
		{fmt.Errorf("x: %w", replication.ErrUnavailable), wire.Unavailable},
		{fmt.Errorf("%w: %w", replication.ErrUnknownOutcome, context.DeadlineExceeded), wire.UnknownOutcome},
		{fmt.Errorf("%w: %w", replication.ErrUnavailable, context.DeadlineExceeded), wire.Unavailable},
		{fmt.Errorf("x: %w", replication.ErrUnknownOutcome), wire.UnknownOutcome},
		{replication.ErrStopped, wire.Stopping},
		{context.Canceled, wire.UnknownOutcome},
		{&replication.RefusedError{Code: replication.Code_CODE_BUSY}, wire.Busy},
		{wire.Refuse(wire.Denied, ""), wire.Denied},
		{errors.New("secret"), wire.Internal},
	} {
		if e := wire.ErrorOf(tc.err); e.Kind != tc.want || strings.Contains(e.Error(), "secret") {
			t.Errorf("%v became %s: %v", tc.err, e.Kind, e)
		}
	}
}

func TestDoRequest(t *testing.T) {
	req := &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{Name: "l", Durability: 1}}}
	for in, want := range map[time.Duration]time.Duration{0: 0, time.Microsecond: time.Millisecond, time.Minute: time.Minute,
		-1: 0, 1 << 62: (1<<32 - 1) * time.Millisecond} {
		d := &wire.DoRequest{Timeout: in, Request: req}
		b := make([]byte, d.SizeVT()+3) // the end of a larger buffer
		n, err := d.MarshalToSizedBufferVT(b)
		if err != nil || n != d.SizeVT() {
			t.Fatal(n, err)
		}
		var back wire.DoRequest
		if err := back.UnmarshalDo(b[3:]); err != nil || back.Timeout != want || back.Request.GetLockGet().GetName() != "l" {
			t.Errorf("%v became %v, %v, %v", in, back.Timeout, back.Request, err)
		}
	}
}

func FuzzUnmarshalDo(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x62\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d wire.DoRequest
		if d.UnmarshalDo(b) == nil && d.Request == nil {
			t.Fatal("no request and no error")
		}
	})
}

// JSON names are lower case with underscores: Decode relies on it.
func TestJSONNames(t *testing.T) {
	for _, v := range []any{wire.Lock{}, wire.LockTry{}, wire.LockExtend{}, wire.LockUnlock{}, wire.LockBreak{}, wire.Entry{}, wire.Written{},
		wire.Sequence{}, wire.SequenceCreate{}, wire.SequenceUpdate{}, wire.SequenceReserve{}, wire.HoldRequest{}, wire.HoldMessage{},
		wire.HoldOpened{}, wire.HoldEvent{}, wire.HoldInfo{}, wire.Status{}, wire.VoterStatus{}, wire.Problem{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
				t.Errorf("%s.%s is called %q in JSON", typ, typ.Field(i).Name, name)
			}
		}
	}
}

// An update without leave to lower asks the quorum to see to it: what was read
// before is old when the update is carried out.
func TestSequenceUpdateLowersNothingUnasked(t *testing.T) {
	current := int64(7)
	for _, c := range []struct {
		update wire.SequenceUpdate
		want   bool
	}{
		{wire.SequenceUpdate{Current: &current}, true},
		{wire.SequenceUpdate{Current: &current, AllowLower: true}, false},
		{wire.SequenceUpdate{Maximum: &current}, false},
	} {
		if got := c.update.Request("s").GetSequenceUpdate().GetNotLower(); got != c.want {
			t.Errorf("%+v asks for it: %v, want %v", c.update, got, c.want)
		}
	}
}
