package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// driver proposes to a machine as a voter would, for benchmarks.
type driver struct {
	b      testing.TB
	m      *statemachine.Machine
	index  uint64
	clock  int64
	number uint64
}

func newDriver(b testing.TB) *driver {
	s := newMapStore()
	s.ever = nil
	d := &driver{b: b, m: newMachine(b, s)}
	d.apply(d.encode(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: sid("bench"), TtlMs: 1e12}}}))
	return d
}

func (d *driver) encode(reqs ...*replication.Request) []byte {
	for _, r := range reqs {
		if r.TakesReceipt() {
			d.number++
			r.Session, r.Number = sid("bench"), d.number
			if d.number > 512 { // what is in flight and not yet confirmed
				r.DoneBelow = d.number - 512
			}
		}
	}
	d.clock += 1e6
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: 1, Term: 1, LeaseClockNs: d.clock,
		WallMs: d.clock / 1e6, Requests: reqs})
	if err != nil {
		d.b.Fatal(err)
	}
	return b
}

func (d *driver) apply(entry []byte) statemachine.Result {
	d.index++
	res := d.m.Apply(d.index, 1, entry)
	if res.Diverged != nil {
		d.b.Fatal(res.Diverged)
	}
	return res
}

// run applies entries made by next, whose making is not measured.
func (d *driver) run(b *testing.B, requests int, next func(entry int) []byte) {
	const ahead = 64
	var entries [][]byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if len(entries) == 0 {
			b.StopTimer()
			for j := range ahead {
				entries = append(entries, next(i+j))
			}
			b.StartTimer()
		}
		for _, a := range d.apply(entries[0]).Answers {
			if a.Code != replication.Code_CODE_OK {
				b.Fatal(a)
			}
		}
		entries = entries[1:]
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(requests), "ns/request")
}

func BenchmarkPuts(b *testing.B) {
	d := newDriver(b)
	value := make([]byte, 128)
	n := 0
	d.run(b, 128, func(int) []byte {
		reqs := make([]*replication.Request, 128)
		for j := range reqs {
			n++
			reqs[j] = &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{
				Items: []*replication.WriteItem{{Durability: 1, Key: fmt.Sprintf("bench/key-%05d", n*7919%10_000), Value: value}}}}}
		}
		return d.encode(reqs...)
	})
}

func BenchmarkLockPairs(b *testing.B) {
	d := newDriver(b)
	d.run(b, 256, func(int) []byte {
		var reqs []*replication.Request
		for j := range 128 {
			name, owner := fmt.Sprintf("bench/lock-%d", j), []byte("0123456789abcdef0123456789abcdef")
			reqs = append(reqs,
				&replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{Durability: 1, Name: name, Owner: owner, TtlMs: 30_000}}},
				&replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{Durability: 1, Name: name, Owner: owner}}})
		}
		return d.encode(reqs...)
	})
}

func BenchmarkSequence(b *testing.B) {
	d := newDriver(b)
	d.apply(d.encode(&replication.Request{Op: &replication.Request_SequenceCreate{SequenceCreate: &replication.SequenceCreate{Name: "hot", Increment: 1}}}))
	d.run(b, 128, func(int) []byte {
		reqs := make([]*replication.Request, 128)
		for j := range reqs {
			reqs[j] = &replication.Request{Op: &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{Name: "hot", Count: 1}}}
		}
		return d.encode(reqs...)
	})
}

func BenchmarkRenewalWith1000Holds(b *testing.B) {
	d := newDriver(b)
	for j := range 1000 {
		d.apply(d.encode(&replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{Durability: 1,
			Name: fmt.Sprintf("lock-%d", j), Session: sid("bench"), Owner: hold(fmt.Sprint(j))}}}))
	}
	d.run(b, 1, func(int) []byte {
		return d.encode(&replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: sid("bench")}}})
	})
}
