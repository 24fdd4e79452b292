package statemachine_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected outcomes in testdata/*.txt")

// TestScenarios runs the stories in testdata. A story is a list of blocks:
// commands, a line of dashes, what came of them. All commands of a block make
// one log entry, but for reads, which follow it. Before the commands may stand
//
//	clock 30s     the lease clock of this and later entries
//	wall 1000     the wall clock in ms of this and later entries
//	term 2        the term in which later entries are appended
//	stamped 1     the term in which this entry was stamped
//	restart       the machine is loaded from its rows again
//
// Requests are written as NAME FIELD=VALUE…, with the names of the proto. "begin
// T …" starts a transaction that later blocks call T: see txRequest. Requests
// with a receipt come from the session "client" with rising numbers, unless
// id=SESSION:NUMBER and done=NUMBER say otherwise.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScenario(t, file) })
	}
}

func runScenario(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		commands, want, _ := strings.Cut(block+"\n", "----\n")
		var lines []string
		for _, line := range strings.Split(strings.TrimSpace(commands), "\n") {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		out.WriteString(commands)
		if len(lines) == 0 || lines[0] == "" {
			continue
		}
		got := w.block(lines)
		out.WriteString("----\n" + got)
		if !*rewrite && got != strings.TrimSpace(want)+"\n" {
			t.Errorf("%s:\n%s\nwant:\n%s\ngot:\n%s", file, commands, want, got)
		}
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// world is a machine and the voter around it.
type world struct {
	t      testing.TB
	store  *mapStore
	m      *statemachine.Machine
	index  uint64
	term   uint64
	clock  time.Duration
	wallMS int64
	number map[string]uint64
	tx     map[string]*replication.Timestamp // ids of transactions by their names
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: newMapStore(), term: 1, wallMS: 1000, number: make(map[string]uint64), tx: make(map[string]*replication.Timestamp)}
	w.m = newMachine(t, w.store)
	w.apply(w.term, []*replication.Request{{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: sid("client"), Host: "h", Node: "n", TtlMs: 1e12}}}})
	return w
}

func (w *world) apply(stamped uint64, reqs []*replication.Request) statemachine.Result {
	w.t.Helper()
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: 1, Term: stamped, LeaseClockNs: int64(w.clock),
		WallMs: w.wallMS, Requests: reqs})
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	res := w.m.Apply(w.index, w.term, b)
	for i := range b { // nothing may alias the log's buffer
		b[i] = 0xDB
	}
	return res
}

// sid is the session id that a short name stands for.
func sid(name string) []byte {
	b := bytes.Repeat([]byte{'.'}, max(16, len(name)))
	copy(b, name)
	return b
}

// hold is the hold id that a short name stands for.
func hold(name string) []byte {
	h := hex.EncodeToString([]byte(name))
	return []byte(strings.Repeat("0", max(0, 32-len(h))) + h)
}

func (w *world) block(lines []string) string {
	w.t.Helper()
	stamped := uint64(0)
	var reqs, reads []*replication.Request
	begun := make(map[int]string)
	for _, line := range lines {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "clock":
			d, err := time.ParseDuration(rest)
			w.check(err, line)
			w.clock = d
		case "wall":
			w.wallMS = w.int(rest, line)
		case "term":
			w.term = uint64(w.int(rest, line))
		case "stamped":
			stamped = uint64(w.int(rest, line))
		case "restart":
			w.m = newMachine(w.t, w.store)
		default:
			if word == "begin" {
				name, options, _ := strings.Cut(rest, " ")
				w.tx[name] = nil
				begun[len(reqs)] = name
				line = "tx_start " + options
			}
			req := w.request(line)
			if req.IsRead() {
				reads = append(reads, req)
			} else {
				reqs = append(reqs, req)
			}
		}
	}
	if stamped == 0 {
		stamped = w.term
	}
	var out strings.Builder
	if len(reqs) > 0 {
		res := w.apply(stamped, reqs)
		if res.Diverged != nil {
			fmt.Fprintf(&out, "diverged: %v\n", res.Diverged)
		}
		for i, a := range res.Answers {
			if name, ok := begun[i]; ok {
				w.tx[name] = a.GetTxStarted().GetId()
			}
			out.WriteString(show(a.ProtoReflect()) + "\n")
		}
		for _, e := range res.Events {
			fmt.Fprintf(&out, "  to %s: %s\n", showBytes(e.Session[:]), show(e.Event.ProtoReflect()))
		}
	}
	for _, r := range reads {
		out.WriteString(show(statemachine.Read(w.store, r).ProtoReflect()) + "\n")
	}
	return out.String()
}

func (w *world) check(err error, line string) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%q: %v", line, err)
	}
}

func (w *world) int(s, line string) int64 {
	w.t.Helper()
	n, err := strconv.ParseInt(s, 0, 64)
	w.check(err, line)
	return n
}

// request reads one line. "set", "delete" and "extend" are items of a write,
// joined with ";" after "write" or "atomic".
func (w *world) request(line string) *replication.Request {
	w.t.Helper()
	req := new(replication.Request)
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "set", "delete", "extend":
		word, rest = "write", line
		fallthrough
	case "write", "atomic":
		op := &replication.Write{Atomic: word == "atomic"}
		for _, part := range strings.Split(rest, ";") {
			kind, fields, _ := strings.Cut(strings.TrimSpace(part), " ")
			item := &replication.WriteItem{Kind: replication.WriteKind(replication.WriteKind_value["WRITE_KIND_"+strings.ToUpper(kind)])}
			w.fill(req, item.ProtoReflect(), fields)
			op.Items = append(op.Items, item)
		}
		req.Op = &replication.Request_Write{Write: op}
	case "get":
		k, op := new(replication.GetKey), new(replication.Get)
		w.fill(req, k.ProtoReflect(), rest, op.ProtoReflect())
		op.Keys = append(op.Keys, k)
		req.Op = &replication.Request_Get{Get: op}
	default:
		if id, ok := w.tx[word]; ok {
			w.txRequest(req, id, rest)
			break
		}
		m := req.ProtoReflect()
		f := m.Descriptor().Fields().ByName(protoreflect.Name(word))
		if f == nil || f.ContainingOneof() == nil {
			w.t.Fatalf("%q: no such request", line)
		}
		w.fill(req, m.Mutable(f).Message(), rest)
	}
	if req.TakesReceipt() && req.Session == nil {
		w.number["client"]++
		req.Session, req.Number, req.DoneBelow = sid("client"), w.number["client"], w.number["client"]
	}
	return req
}

// fill sets fields of the first of the messages that has them.
func (w *world) fill(req *replication.Request, m protoreflect.Message, text string, others ...protoreflect.Message) {
	w.t.Helper()
	if f := m.Descriptor().Fields().ByName("durability"); f != nil {
		m.Set(f, protoreflect.ValueOfEnum(1))
	}
	for _, field := range strings.Fields(text) {
		name, value, has := strings.Cut(field, "=")
		switch name {
		case "id":
			if m.Descriptor().Fields().ByName("id") != nil {
				break
			}
			session, number, _ := strings.Cut(value, ":")
			req.Session, req.Number = sid(session), uint64(w.int(number, text))
			continue
		case "done":
			req.DoneBelow = uint64(w.int(value, text))
			continue
		case "ephemeral":
			m.Set(m.Descriptor().Fields().ByName("durability"), protoreflect.ValueOfEnum(0))
			continue
		}
		in := m
		for _, o := range others {
			if in.Descriptor().Fields().ByName(protoreflect.Name(name)) == nil {
				in = o
			}
		}
		f := in.Descriptor().Fields().ByName(protoreflect.Name(name))
		if f == nil {
			w.t.Fatalf("%q: no field %s", text, name)
		}
		in.Set(f, w.parse(f, value, has, text))
	}
}

func (w *world) parse(f protoreflect.FieldDescriptor, value string, has bool, line string) protoreflect.Value {
	w.t.Helper()
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!has || value == "true")
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ReplaceAll(value, "~", " "))
	case protoreflect.BytesKind:
		switch {
		case f.Name() == "session" || f.Name() == "id":
			return protoreflect.ValueOfBytes(sid(value))
		case f.Name() == "owner" && strings.HasPrefix(value, "@"):
			return protoreflect.ValueOfBytes(hold(value[1:]))
		}
		return protoreflect.ValueOfBytes([]byte(value))
	case protoreflect.MessageKind: // a timestamp
		ms, counter, _ := strings.Cut(value, ".")
		ts := &replication.Timestamp{PhysicalMs: w.int(ms, line)}
		if counter != "" {
			ts.Counter = uint32(w.int(counter, line))
		}
		return protoreflect.ValueOfMessage(ts.ProtoReflect())
	}
	if strings.HasSuffix(string(f.Name()), "_ms") {
		if d, err := time.ParseDuration(value); err == nil {
			return protoreflect.ValueOfInt64(d.Milliseconds())
		}
	}
	n := w.int(value, line)
	switch f.Kind() {
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
	}
	return protoreflect.ValueOfInt64(n)
}

// show writes a message in one line, fields in order; index and time, which
// only number what happened, are left out of answers.
func show(m protoreflect.Message) string {
	var parts []string
	fields := m.Descriptor().Fields()
	isAnswer := m.Descriptor().Name() == "Answer"
	if ts, ok := m.Interface().(*replication.Timestamp); ok {
		return fmt.Sprintf("%d.%d", ts.PhysicalMs, ts.Counter)
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) && !(isAnswer && f.Name() == "code") || f.Name() == "index" || isAnswer && f.Name() == "time" {
			continue
		}
		v := m.Get(f)
		if f.IsList() {
			var items []string
			for j := range v.List().Len() {
				if f.Kind() == protoreflect.StringKind {
					items = append(items, strconv.Quote(v.List().Get(j).String()))
					continue
				}
				items = append(items, "{"+show(v.List().Get(j).Message())+"}")
			}
			parts = append(parts, strings.Join(items, " "))
			continue
		}
		text := showValue(f, v)
		switch {
		case isAnswer && f.Name() == "code", f.Name() == "kind":
			parts = append(parts, text)
		case f.Name() == "durability" && text == "persistent":
		default:
			parts = append(parts, string(f.Name())+"="+text)
		}
	}
	return strings.Join(parts, " ")
}

func showValue(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.EnumKind:
		name := string(f.Enum().Values().ByNumber(v.Enum()).Name())
		for _, cut := range []string{"CODE_", "KIND_", "DURABILITY_", "TX_OUTCOME_"} {
			name = strings.TrimPrefix(name, cut)
		}
		return strings.ToLower(name)
	case protoreflect.MessageKind:
		if f.Message().Name() == "Timestamp" {
			return show(v.Message())
		}
		return "{" + show(v.Message()) + "}"
	case protoreflect.BytesKind:
		return showBytes(v.Bytes())
	case protoreflect.StringKind:
		return strconv.Quote(v.String())
	}
	if strings.HasSuffix(string(f.Name()), "_ms") && f.Name() != "since_ms" && f.Name() != "expires_at_ms" {
		return (time.Duration(v.Int()) * time.Millisecond).String()
	}
	return v.String()
}

func showBytes(b []byte) string {
	if len(b) == 32 && bytes.HasPrefix(b, []byte("00000")) {
		if s, err := hex.DecodeString(string(bytes.TrimLeft(b, "0"))); err == nil {
			return "@" + string(s)
		}
	}
	if len(b) == 16 {
		b = bytes.TrimRight(b, ".")
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", b)
		}
	}
	return string(b)
}
