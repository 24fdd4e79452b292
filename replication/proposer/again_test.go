package proposer_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/proposer"
)

// HAZARDS.md 3: an entry of an older term is proposed again, the same request,
// once it is known who leads, and refused when it is somebody else.
func TestProposeAgain(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		o.submit(p, renew(1))
		synctest.Wait()
		r.all()[0].answer(replication.Code_CODE_PROPOSE_AGAIN)
		time.Sleep(time.Second) // virtual: in a synctest bubble
		if n := len(r.all()); n != 1 || o.of(1) != "" {
			t.Fatalf("%d entries, answered %q: it must wait for a new reign", n, o.of(1))
		}
		o.submit(p, renew(2))
		p.Lead(reign(9))
		synctest.Wait()
		f := r.all()
		if len(f) != 2 || f[1].entry.Term != 9 || fmt.Sprint(numbers(f[1])) != "[1 2]" {
			t.Fatalf("proposed again: %d entries, the last is %+v", len(f), f[len(f)-1].entry)
		}
		f[1].answer(replication.Code_CODE_PROPOSE_AGAIN)
		synctest.Wait()
		p.Resign("b")
		if want := "CODE_OK not the leader; the leader is presumably b"; o.of(1) != want || o.of(2) != want {
			t.Fatalf("after resigning: %q, %q", o.of(1), o.of(2))
		}
		if _, err := p.Do(context.Background(), renew(3)); err == nil {
			t.Fatal("a follower proposed")
		}
	})
}

// Costly requests that did not fit into their entry go into the next one, before
// what came later; the others of the entry are answered.
func TestProposeTheRestAgain(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		occupy(p, &o)
		before := len(r.all())
		o.submit(p, write(1, 1))
		o.submit(p, write(2, 1))
		o.submit(p, write(3, 1))
		for _, f := range r.all() {
			f.answer(replication.Code_CODE_OK)
		}
		time.Sleep(time.Second) // virtual: in a synctest bubble
		f := r.all()
		if len(f) != before+1 || fmt.Sprint(numbers(f[before])) != "[1 2 3]" {
			t.Fatalf("%d entries, the last has %v", len(f), numbers(f[len(f)-1]))
		}
		o.submit(p, write(4, 1))
		f[before].resp = []*replication.Answer{{}, {Code: replication.Code_CODE_PROPOSE_AGAIN}, {Code: replication.Code_CODE_PROPOSE_AGAIN}}
		f[before].err <- nil
		time.Sleep(time.Second) // virtual: in a synctest bubble
		f = r.all()
		if o.of(1) != "CODE_OK <nil>" || o.of(2) != "" {
			t.Errorf("after the first entry: 1 %q, 2 %q", o.of(1), o.of(2))
		}
		if len(f) != before+2 || fmt.Sprint(numbers(f[before+1])) != "[2 3 4]" {
			t.Fatalf("%d entries, the last has %v", len(f), numbers(f[len(f)-1]))
		}
		f[before+1].answer(replication.Code_CODE_OK)
		synctest.Wait()
		for n := uint64(1); n <= 4; n++ {
			if o.of(n) != "CODE_OK <nil>" {
				t.Errorf("%d: %q", n, o.of(n))
			}
		}
	})
}
