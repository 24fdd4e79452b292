package localapi_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func TestClientLocks(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	g, err := c.LockTry(ctx, "jobs/1", []byte("me"), time.Minute, client.LockOptions{Reason: "backup\n"})
	if err != nil || !g.Granted || g.Token != 0 || g.RemainingMS != 60_000 {
		t.Fatalf("first try: %+v, %v", g, err)
	}
	_, err = c.LockTry(ctx, "jobs/1", []byte("you"), time.Minute, client.LockOptions{})
	wantError(t, err, client.ErrBusy)
	if _, err = c.LockExtend(ctx, "jobs/1", []byte("me"), time.Hour, client.LockOptions{}); err != nil {
		t.Error(err)
	}
	_, err = c.LockExtend(ctx, "jobs/1", []byte("you"), time.Hour, client.LockOptions{})
	wantError(t, err, client.ErrNotOwner)
	info, err := c.LockInfo(ctx, "jobs/1", client.LockOptions{})
	if err != nil || info.Holder.PID != int64(os.Getpid()) || info.Holder.Reason != "backup " || info.Holder.Host != "host1" || info.Owner != "me" || info.Holder.Command == "" {
		t.Errorf("info: %+v, %v", info, err)
	}
	list, err := c.LockList(ctx, "jobs/", client.Page{}, client.LockOptions{})
	if err != nil || len(list.Locks) != 1 || list.Next != "" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := c.LockUnlock(ctx, "jobs/1", []byte("me"), client.LockOptions{}); err != nil {
		t.Error(err)
	}
	_, err = c.LockInfo(ctx, "jobs/1", client.LockOptions{})
	wantError(t, err, client.ErrNotFound)
	wantError(t, c.LockBreak(ctx, "jobs/1", client.LockOptions{}), client.ErrNotFound)
	_, err = c.LockTry(ctx, "jobs/1", []byte("me"), 25*time.Hour, client.LockOptions{})
	wantError(t, err, client.ErrInvalid)
	if !strings.Contains(err.Error(), "the TTL 25h0m0s is above the largest") {
		t.Errorf("another TTL than the one that was asked for: %v", err)
	}
	_, err = c.LockTry(ctx, strings.Repeat("x", 1025), []byte("me"), time.Hour, client.LockOptions{})
	wantError(t, err, client.ErrInvalid)
}

func TestClientKeys(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	_, err := c.KVGet(ctx, "a", client.ReadOptions{})
	wantError(t, err, client.ErrNotFound)
	w, err := c.KVSet(ctx, "a", []byte("1"), client.WriteOptions{If: client.Condition{NotExists: true}})
	if err != nil || w.Revision != 0 {
		t.Fatalf("set: %+v, %v", w, err)
	}
	_, err = c.KVSet(ctx, "a", []byte("2"), client.WriteOptions{If: client.Condition{NotExists: true}})
	wantError(t, err, client.ErrConditionFailed)
	var condition *client.ConditionError
	if !errors.As(err, &condition) || condition.Revision != 0 {
		t.Errorf("condition error: %#v", err)
	}
	if w, err = c.KVSet(ctx, "a", nil, client.WriteOptions{If: client.Condition{Revision: new(int64)}, TTL: time.Hour}); err != nil || w.Revision != 1 || w.Expires == "" {
		t.Fatalf("set: %+v, %v", w, err)
	}
	e, err := c.KVGet(ctx, "a", client.ReadOptions{Stale: true})
	if err != nil || e.Value == nil || len(e.Value) != 0 || e.AgeMS != 1500 || e.RemainingMS != 3_600_000 {
		t.Errorf("get of an empty value: %+v, %v", e, err)
	}
	if _, err = c.KVSet(ctx, "b", nil, client.WriteOptions{Null: true}); err != nil {
		t.Error(err)
	}
	if e, err = c.KVGet(ctx, "b", client.ReadOptions{}); err != nil || e.Value != nil {
		t.Errorf("get of null: %+v, %v", e, err)
	}
	if e, err = c.KVExists(ctx, "a", client.ReadOptions{}); err != nil || !e.ValueLeftOut {
		t.Errorf("exists: %+v, %v", e, err)
	}
	page, err := c.KVList(ctx, "", client.Page{Limit: 1}, client.ReadOptions{})
	if err != nil || len(page.Entries) != 1 || page.Next != "a" {
		t.Errorf("first page: %+v, %v", page, err)
	}
	if page, err = c.KVList(ctx, "", client.Page{After: page.Next}, client.ReadOptions{}); err != nil || len(page.Entries) != 1 || page.Entries[0].Key != "b" || page.Next != "" {
		t.Errorf("second page: %+v, %v", page, err)
	}
	if page, err = c.KVHistory(ctx, "a", nil, 1, client.ReadOptions{}); err != nil || len(page.Entries) != 1 || page.Next != "1" {
		t.Errorf("history: %+v, %v", page, err)
	}
	if _, err = c.KVExtend(ctx, "a", 0, client.WriteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err = c.KVDelete(ctx, "a", client.WriteOptions{}); err != nil {
		t.Error(err)
	}
	_, err = c.KVDelete(ctx, "a", client.WriteOptions{})
	wantError(t, err, client.ErrNotFound)
	_, err = c.KVSet(ctx, "a", make([]byte, 1<<20+1), client.WriteOptions{})
	wantError(t, err, client.ErrInvalid)
	revision := int64(99)
	for what, do := range map[string]func() error{
		"key \"none\": there is no such key": func() error {
			_, err := c.KVDelete(ctx, "none", client.WriteOptions{})
			return err
		},
		"key \"None\": there is no such key": func() error {
			_, err := c.KVExtend(ctx, "None", time.Minute, client.WriteOptions{})
			return err
		},
		"there is no revision 99 of this key": func() error {
			_, err := c.KVGet(ctx, "none", client.ReadOptions{Revision: &revision})
			return err
		},
	} {
		err := do()
		wantError(t, err, client.ErrNotFound)
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want what says %s", err, what)
		}
	}
	for _, ttl := range []time.Duration{-1, time.Nanosecond, 25 * time.Hour} {
		_, err = c.KVSet(ctx, "a", nil, client.WriteOptions{TTL: ttl})
		wantError(t, err, client.ErrInvalid)
	}
}

func TestClientSequences(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	maximum := int64(5)
	if s, err := c.SequenceCreate(ctx, "invoice", wire.SequenceCreate{Maximum: &maximum}); err != nil || s.Increment != 1 {
		t.Fatalf("create: %+v, %v", s, err)
	}
	_, err := c.SequenceCreate(ctx, "invoice", wire.SequenceCreate{})
	wantError(t, err, client.ErrExists)
	for range 2 { // the second is a replay
		if a, err := c.SequenceNext(ctx, "invoice", "once"); err != nil || a.Start != 1 {
			t.Errorf("next: %+v, %v", a, err)
		}
	}
	_, err = c.SequenceReserve(ctx, "invoice", 2, "once")
	wantError(t, err, client.ErrConflict)
	_, err = c.SequenceReserve(ctx, "invoice", 9, "")
	wantError(t, err, client.ErrExhausted)
	_, err = c.SequenceReserve(ctx, "invoice", 0, "")
	wantError(t, err, client.ErrInvalid)
	low := int64(0)
	_, err = c.SequenceUpdate(ctx, "invoice", wire.SequenceUpdate{Current: &low})
	wantError(t, err, client.ErrInvalid)
	if s, err := c.SequenceUpdate(ctx, "invoice", wire.SequenceUpdate{Current: &low, AllowLower: true}); err != nil || s.Current != 0 {
		t.Errorf("update: %+v, %v", s, err)
	}
	if list, err := c.SequenceList(ctx, "inv", client.Page{}); err != nil || len(list.Sequences) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := c.SequenceDelete(ctx, "invoice"); err != nil {
		t.Error(err)
	}
	_, err = c.SequenceGet(ctx, "invoice")
	wantError(t, err, client.ErrNotFound)
}

// What the coordinator says about outcomes reaches the caller as it is.
func TestClientOutcomes(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	set := func(ctx context.Context) error {
		_, err := c.KVSet(ctx, "k", nil, client.WriteOptions{})
		return err
	}
	answer := func(err error) {
		a.quorum.setBroken(func(context.Context, *replication.Request) (*replication.Answer, error) { return nil, err })
	}
	for _, tc := range []struct{ from, want error }{
		{replication.ErrUnavailable, client.ErrUnavailable},
		{replication.ErrUnknownOutcome, client.ErrUnknownOutcome},
		{replication.ErrStopped, client.ErrUnavailable},
		{errors.New("secret detail"), client.ErrInternal},
	} {
		answer(tc.from)
		err := set(t.Context())
		wantError(t, err, tc.want)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("an internal error is shown to the caller: %v", err)
		}
	}
	// The agent is told the deadline, and answers before it.
	a.quorum.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", replication.ErrUnavailable, context.Cause(ctx))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	wantError(t, set(ctx), client.ErrUnavailable)
	if ctx.Err() != nil {
		t.Error("the answer came only at the caller's deadline")
	}
	// Given up on this side: a change may have happened, a read not.
	entered := make(chan struct{}, 1)
	a.quorum.setBroken(func(ctx context.Context, _ *replication.Request) (*replication.Answer, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, replication.ErrUnknownOutcome
	})
	giveUp, cancelNow := context.WithCancel(t.Context())
	go func() { <-entered; cancelNow() }()
	err := set(giveUp)
	wantError(t, err, client.ErrUnknownOutcome)
	wantError(t, err, context.Canceled)
}

func TestClientFindsNoAgent(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		socket string
		want   error
	}{
		"missing":  {filepath.Join(dir, "none.sock"), client.ErrNoAgent},
		"too long": {"/" + strings.Repeat("x", 107), client.ErrInvalid},
	} {
		c := client.New(client.Options{Socket: tc.socket})
		_, err := c.Status(t.Context())
		if !errors.Is(err, tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %v on one line", name, err, tc.want)
		}
		c.Close()
		_, err = c.Status(t.Context())
		wantError(t, err, client.ErrClosed)
	}
}

// A restarted agent is found again by the next request.
func TestClientReconnects(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	for range 3 {
		if _, err := c.KVSet(t.Context(), "k", []byte("v"), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		a.stop()
		_, err := c.Status(t.Context())
		wantError(t, err, client.ErrNoAgent)
		a.serve(t)
	}
}

// Many callers share one connection.
func TestClientConcurrently(t *testing.T) {
	c := startAgent(t).client(t)
	if _, err := c.SequenceCreate(t.Context(), "s", wire.SequenceCreate{}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := make(map[int64]bool)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				n, err := c.SequenceNext(t.Context(), "s", "")
				mu.Lock()
				if err != nil || seen[n.Start] {
					t.Errorf("value %d, seen %v, error %v", n.Start, seen[n.Start], err)
				}
				seen[n.Start] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 640 {
		t.Errorf("%d values, want 640", len(seen))
	}
}

// On the stream nobody gets more than over HTTP.
func TestStreamRefusesWhatIsNotForApplications(t *testing.T) {
	a := startAgent(t, allowing(policy.Rule{UIDs: []uint32{uint32(os.Getuid())}, Prefixes: []string{"mine/"},
		Allow: []policy.Verb{policy.Read, policy.Write, policy.Lock, policy.Sequence}}))
	c := a.client(t)
	write := func(key string) *replication.Request {
		return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{Key: key, Durability: 1}}}}}
	}
	with := func(r *replication.Request, change func(*replication.Request)) *replication.Request {
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		req  *replication.Request
		want error
	}{
		"allowed":        {write("mine/1"), nil},
		"other prefix":   {write("theirs/1"), client.ErrDenied},
		"whole range":    {&replication.Request{Op: &replication.Request_Range{Range: &replication.Range{Durability: 1}}}, client.ErrDenied},
		"own range":      {&replication.Request{Op: &replication.Request_Range{Range: &replication.Range{Durability: 1, Prefix: "mine/"}}}, nil},
		"break":          {&replication.Request{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{Name: "mine/1", Durability: 1}}}, client.ErrDenied},
		"session open":   {&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, TtlMs: 1}}}, client.ErrDenied},
		"session close":  {&replication.Request{Op: &replication.Request_SessionClose{SessionClose: &replication.SessionClose{Id: session}}}, client.ErrDenied},
		"session get":    {&replication.Request{Op: &replication.Request_SessionGet{SessionGet: &replication.SessionGet{Id: session}}}, client.ErrDenied},
		"lock wait":      {&replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{Name: "mine/1", Durability: 1}}}, client.ErrDenied},
		"lock detach":    {&replication.Request{Op: &replication.Request_LockDetach{LockDetach: &replication.LockDetach{Name: "mine/1"}}}, client.ErrDenied},
		"opening":        {&replication.Request{Op: &replication.Request_Opening{Opening: &replication.Opening{}}}, client.ErrDenied},
		"sweep":          {&replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{}}}, client.ErrDenied},
		"set level":      {&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: 9}}}, client.ErrDenied},
		"nothing":        {&replication.Request{}, client.ErrInvalid},
		"own request id": {with(write("mine/1"), func(r *replication.Request) { r.Session, r.Number = session, 1 }), client.ErrInvalid},
		"stale write":    {with(write("mine/1"), func(r *replication.Request) { r.Stale = true }), client.ErrInvalid},
		"second key": {with(write("mine/1"), func(r *replication.Request) {
			r.GetWrite().Items = append(r.GetWrite().Items, write("x").GetWrite().Items...)
		}), client.ErrDenied},
		"unknown table":     {with(write("mine/1"), func(r *replication.Request) { r.GetWrite().Items[0].Durability = 7 }), client.ErrInvalid},
		"expiry overflow":   {with(write("mine/1"), func(r *replication.Request) { r.GetWrite().Items[0].ExpiresMs = 1 << 62 }), client.ErrInvalid},
		"expiry below zero": {with(write("mine/1"), func(r *replication.Request) { r.GetWrite().Items[0].ExpiresMs = -1 << 63 }), client.ErrInvalid},
		"control character": {write("mine/\x00"), client.ErrInvalid},
		"empty name":        {write(""), client.ErrInvalid},
		"no keys":           {&replication.Request{Op: &replication.Request_Get{Get: &replication.Get{}}}, client.ErrInvalid},
	} {
		answer, err := c.Do(t.Context(), tc.req)
		if tc.want == nil {
			if err = errors.Join(err, client.Refusal(answer)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, %v, want %v", name, answer, err, tc.want)
		}
	}
	if !strings.Contains(a.log.String(), "request denied by the policy") {
		t.Error("denied requests are not in the log")
	}
}

// Who knows an owner may unlock: only administrators see owners.
func TestOwnersAreHidden(t *testing.T) {
	a := startAgent(t, allowing(own(policy.Read, policy.Lock)))
	c := a.client(t)
	if _, err := c.LockTry(t.Context(), "l", []byte("secret"), time.Minute, client.LockOptions{}); err != nil {
		t.Fatal(err)
	}
	info, err1 := c.LockInfo(t.Context(), "l", client.LockOptions{})
	list, err2 := c.LockList(t.Context(), "", client.Page{}, client.LockOptions{})
	if err1 != nil || err2 != nil || info.Owner != "" || list.Locks[0].Owner != "" || info.Token != 0 || info.RemainingMS == 0 {
		t.Errorf("%+v, %+v, %v, %v", info, list, err1, err2)
	}
}

var _ localapi.Holder = (*holder)(nil)
