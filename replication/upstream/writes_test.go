package upstream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

func set(key, value string, revision *int64) *replication.Request {
	item := &replication.WriteItem{Durability: persistent, Key: key, Value: []byte(value)}
	if revision != nil {
		item.IfRevision, item.CompareRevision = true, *revision
	}
	return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{item}}}}
}

// firstTime does something to the first request of a method.
func firstTime(method string, f fault) func(request) fault {
	n := 0
	return func(q request) fault {
		if q.method != method {
			return fine
		}
		if n++; n == 1 {
			return f
		}
		return fine
	}
}

// A change whose outcome is not known is not sent again, unless it cannot take
// effect twice; one that certainly was not applied is.
func TestAWriteIsNeverAppliedTwice(t *testing.T) {
	revision := int64(-1)
	cases := []struct {
		name    string
		fault   fault
		on      *int64 // revision
		sent    int
		want    error
		written bool
	}{
		{"lost", lost, nil, 1, replication.ErrUnknownOutcome, true},
		{"MustRetry although applied", retryLie, nil, 1, replication.ErrUnknownOutcome, true},
		{"MustRetry", retry, nil, 1, replication.ErrUnknownOutcome, false},
		{"Errored", errored, nil, 1, replication.ErrUnknownOutcome, true},
		{"refused after it was sent", refused, nil, 1, replication.ErrUnknownOutcome, false},
		{"no answer", silent, nil, 1, replication.ErrUnknownOutcome, true},
		{"on a revision, lost", lost, &revision, 2, replication.ErrUnknownOutcome, true},
		{"on a revision, MustRetry", retry, &revision, 2, nil, true},
		{"on a revision, refused", refused, &revision, 2, nil, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 2, func(r *rig) {
				r.k.setPlan(firstTime("TrySetKeyValue", c.fault))
				a, err := r.do(5*time.Second, set("k", "v", c.on))
				if !errors.Is(err, c.want) || err == nil && a.GetCode() != replication.Code_CODE_OK {
					r.Errorf("it was answered with %v, %v; want %v", a, err, c.want)
				}
				if n := r.k.count("TrySetKeyValue"); n != c.sent {
					r.Errorf("it was sent %d times, want %d", n, c.sent)
				}
				r.k.setPlan(nil)
				got := r.must(&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: []*replication.GetKey{{Durability: persistent, Key: "k"}}}}})
				e := got.GetEntries().GetEntries()[0]
				if e.GetFound() != c.written || e.GetRevision() != 0 {
					r.Errorf("the key is %v", e)
				}
			})
		})
	}
}

// A server that nobody can connect to was not sent anything: the change goes to
// another, and is applied once.
func TestAWriteGoesToAnotherServer(t *testing.T) {
	bubble(t, 3, func(r *rig) {
		for i := range 3 {
			if r.c.Status()[i].InUse {
				r.k.kill(i)
			}
		}
		if a := r.must(set("k", "v", nil)); a.GetWritten().GetItems()[0].GetRevision() != 0 {
			r.Errorf("it was answered with %v", a)
		}
		if n := r.k.count("TrySetKeyValue"); n != 1 {
			r.Errorf("it was sent %d times", n)
		}
	})
}

// Nobody to be reached: certainly not applied.
func TestNothingWasSent(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.k.kill(0)
		if a, err := r.do(3*time.Second, set("k", "v", nil)); !errors.Is(err, replication.ErrUnavailable) {
			r.Errorf("it was answered with %v, %v", a, err)
		}
	})
}

// Values of a sequence are drawn once, whatever becomes of the answer: each request
// has an idempotency key.
func TestASequenceIsDrawnOnce(t *testing.T) {
	for name, broken := range map[string]fault{"lost": lost, "MustRetry": retry, "MustRetry although applied": retryLie, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(r *rig) {
				for i := range int64(3) {
					r.k.setPlan(firstTime("ReserveSequenceRange", broken))
					a := r.must(&replication.Request{Op: &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{Name: "s", Count: 1}}})
					if got := a.GetAllocation().GetStart(); got != i+1 {
						r.Errorf("draw %d gave %d", i, got)
					}
				}
				if n := r.k.count("ReserveSequenceRange"); n != 6 {
					r.Errorf("it was sent %d times", n)
				}
			})
		})
	}
}

// A read is sent again until somebody answers.
func TestAReadIsSentAgain(t *testing.T) {
	for name, broken := range map[string]fault{"lost": lost, "MustRetry": retry, "refused": refused, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(r *rig) {
				r.k.setPlan(firstTime("TryGetKeyValue", broken))
				a := r.must(&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: []*replication.GetKey{{Durability: persistent, Key: "k"}}}}})
				if a.GetEntries().GetEntries()[0].GetFound() || r.k.count("TryGetKeyValue") != 2 {
					r.Errorf("after %d requests it was answered with %v", r.k.count("TryGetKeyValue"), a)
				}
			})
		})
	}
}

// A list by prefix comes in order and in pages, and one that the cluster may have
// cut is refused.
func TestAListIsWholeOrRefused(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		for i := range 25 {
			r.must(set(fmt.Sprintf("p/%02d", i), "v", nil))
		}
		r.must(set("other", "v", nil))
		var keys []string
		after := ""
		for more := true; more; {
			list := &replication.Range{Durability: persistent, Prefix: "p/", Limit: 10}
			if after != "" {
				list.Start, list.StartExclusive = &after, true
			}
			page := r.must(&replication.Request{Op: &replication.Request_Range{Range: list}}).GetEntries()
			for _, e := range page.GetEntries() {
				keys = append(keys, e.GetKey())
				after = e.GetKey()
			}
			more = page.GetMore()
		}
		want := ""
		for i := range 25 {
			want += fmt.Sprintf("p/%02d ", i)
		}
		if got := strings.Join(keys, " ") + " "; got != want {
			r.Errorf("the list is %s", got)
		}
		r.k.mu.Lock()
		for i := range 5000 {
			r.k.keys[fmt.Sprint("many/", i)] = &value{}
		}
		r.k.mu.Unlock()
		a, err := r.do(time.Second, &replication.Request{Op: &replication.Request_Range{Range: &replication.Range{Durability: persistent, Prefix: "many/"}}})
		if err != nil || a.GetCode() != replication.Code_CODE_LIMIT {
			r.Errorf("a list that may be cut was answered with %v, %v", a.GetCode(), err)
		}
	})
}
