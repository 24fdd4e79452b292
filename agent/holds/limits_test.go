package holds_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

func TestTTLs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, c := range []struct {
			ttl, grace time.Duration
			refused    string // part of the error
			warned     bool
		}{
			{ttl: 0, refused: "is not between"},
			{ttl: -time.Second, refused: "is not between"},
			{ttl: 25 * time.Hour, refused: "is not between"},
			{ttl: 10*time.Second + time.Microsecond, refused: "whole number"},
			{ttl: 10 * time.Second, grace: -1, refused: "grace"},
			{ttl: 10 * time.Second, grace: 1 << 62, refused: "grace"},
			// 2.5 s + 6 s + 1 s + (20 ms + 816 ms) = 10.337 s
			{ttl: 10 * time.Second, grace: 6 * time.Second, refused: "2.5s until the next renewal + 6s grace + 1s for the kill + 836ms for clocks that differ = 10.336s"},
			{ttl: 10 * time.Second, grace: 5 * time.Second, warned: true},
			{ttl: 10 * time.Second, grace: 3 * time.Second},
			{ttl: 30 * time.Second, grace: 10 * time.Second},
		} {
			req := request("l")
			req.TTL, req.Grace = c.ttl, c.grace
			o, err := r.h.Open(context.Background(), req)
			var refused *replication.RefusedError
			switch {
			case c.refused != "":
				if !errors.As(err, &refused) || refused.Code != replication.Code_CODE_INVALID || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("ttl %s, grace %s: error %v, want %q", c.ttl, c.grace, err, c.refused)
				}
				continue
			case err != nil:
				t.Errorf("ttl %s, grace %s: %v", c.ttl, c.grace, err)
				continue
			}
			if e := r.want(o, time.Second, localapi.HoldHeld); (e.Reason != "") != c.warned {
				t.Errorf("ttl %s, grace %s: warned with %q", c.ttl, c.grace, e.Reason)
			}
			if err := o.Release(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAtMostEightSessions(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var all []localapi.Hold
		lock := func(i int) string { return strings.Repeat("x", i+1) }
		for i := range 10 {
			req := request(lock(i))
			req.TTL = time.Duration(20+10*i) * time.Second
			all = append(all, r.open(req))
			r.want(all[i], time.Second, localapi.HoldHeld)
		}
		opens := r.q.count(func(r *replication.Request) bool { return r.GetSessionOpen() != nil })
		if opens != 8 {
			t.Fatalf("%d sessions, want 8", opens)
		}
		for _, info := range r.h.List() {
			if info.Lock == lock(9) && info.TTLMS != 90_000 {
				t.Fatalf("the hold that asked for 110s has %d ms, want the next lower 90s", info.TTLMS)
			}
		}
		req := request("short")
		req.TTL = 15 * time.Second
		var refused *replication.RefusedError
		if _, err := r.h.Open(context.Background(), req); !errors.As(err, &refused) || refused.Code != replication.Code_CODE_LIMIT {
			t.Fatalf("a ninth ttl below all others: %v", err)
		}
		// One that holds nothing makes room.
		if err := all[3].Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		o := r.open(req)
		r.want(o, time.Second, localapi.HoldHeld)
		for _, o := range append(all, o) {
			o.Disconnect()
		}
	})
}

func TestHoldLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for range 1000 {
			defer r.open(request("l")).Disconnect()
		}
		var refused *replication.RefusedError
		if _, err := r.h.Open(context.Background(), request("l")); !errors.As(err, &refused) || refused.Code != replication.Code_CODE_LIMIT {
			t.Fatalf("one more than the limit: %v", err)
		}
	})
}

// One user, root apart, leaves half of the holds to the others, and gets back
// what it gives back.
func TestHoldLimitOfOneUser(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ask := func(uid int64) (localapi.Hold, error) {
			req := request("l")
			req.Info = &replication.HolderInfo{Uid: uid}
			return r.h.Open(context.Background(), req)
		}
		var own []localapi.Hold
		for range 500 {
			o, err := ask(1000)
			if err != nil {
				t.Fatal(err)
			}
			own = append(own, o)
			defer o.Disconnect()
		}
		var refused *replication.RefusedError
		if _, err := ask(1000); !errors.As(err, &refused) || refused.Code != replication.Code_CODE_LIMIT {
			t.Fatalf("one more than half: %v", err)
		}
		for range 300 {
			o, err := ask(0)
			if err != nil {
				t.Fatalf("root beside a greedy user: %v", err)
			}
			defer o.Disconnect()
		}
		if err := own[7].Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		o, err := ask(1000)
		if err != nil {
			t.Fatalf("after a release: %v", err)
		}
		defer o.Disconnect()
	})
}
