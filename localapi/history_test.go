package localapi_test

import (
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func moment(t *testing.T, text string) *replication.Timestamp {
	t.Helper()
	at, err := wire.ParseMoment(text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestClientReadsAsOfATimeAndBuckets(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	for _, key := range []string{"box/1", "box/1/lines", "box-old/1"} {
		if _, err := c.KVSet(ctx, key, []byte(key), client.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bucket, err := c.KVList(ctx, "box", client.Page{}, client.ReadOptions{Bucket: true})
	if err != nil || len(bucket.Entries) != 1 || bucket.Entries[0].Key != "box/1" {
		t.Errorf("the bucket box has %+v, %v, want box/1 alone", bucket, err)
	}
	// The clock of the test stands at 1700000000000.
	now, err := c.KVGet(ctx, "box/1", client.ReadOptions{AsOf: moment(t, "1700000000000")})
	if err != nil || string(now.Value) != "box/1" {
		t.Errorf("as of the end of the millisecond it was written in: %+v, %v", now, err)
	}
	before := client.ReadOptions{AsOf: moment(t, "1699999999999")}
	_, err = c.KVGet(ctx, "box/1", before)
	wantError(t, err, client.ErrNotFound)
	if list, err := c.KVList(ctx, "box", client.Page{}, before); err != nil || len(list.Entries) != 0 {
		t.Errorf("as of before it was written: %+v, %v", list, err)
	}
}

func TestClientSnapshotHolds(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	at := moment(t, "1700000000000.3")
	h, err := c.SnapshotHold(ctx, "export", at, time.Minute)
	if err != nil || h.Holder != "export" || h.AsOf != "1700000000000.3" || h.RemainingMS != 60_000 {
		t.Fatalf("hold: %+v, %v", h, err)
	}
	if again, err := c.SnapshotHold(ctx, "export", at, 2*time.Minute); err != nil || again.ID != h.ID || again.RemainingMS != 120_000 {
		t.Errorf("the same holder and time: %+v, %v", again, err)
	}
	if longer, err := c.SnapshotRenew(ctx, h.ID, time.Hour); err != nil || longer.RemainingMS != 3_600_000 {
		t.Errorf("renewed: %+v, %v", longer, err)
	}
	if all, err := c.SnapshotList(ctx); err != nil || all.Floor != h.AsOf || len(all.Holds) != 1 || all.Holds[0].ID != h.ID {
		t.Errorf("list: %+v, %v", all, err)
	}
	if err := c.SnapshotRelease(ctx, h.ID); err != nil {
		t.Error(err)
	}
	wantError(t, c.SnapshotRelease(ctx, h.ID), client.ErrNotFound)
	_, err = c.SnapshotRenew(ctx, h.ID, time.Hour)
	wantError(t, err, client.ErrNotFound)
	if all, err := c.SnapshotList(ctx); err != nil || all.Floor != "" || len(all.Holds) != 0 {
		t.Errorf("nothing is held: %+v, %v", all, err)
	}
	_, err = c.SnapshotHold(ctx, "export", at, 25*time.Hour)
	wantError(t, err, client.ErrInvalid)
	_, err = c.SnapshotHold(ctx, "", at, time.Hour)
	wantError(t, err, client.ErrInvalid)
}

func TestClientKeySpaces(t *testing.T) {
	c, ctx := startAgent(t).client(t), t.Context()
	for _, name := range []string{"a", "b", "c"} {
		if done, err := c.KeySpaceSet(ctx, name, true); err != nil || !done.Changed || !done.Registered {
			t.Fatalf("register %s: %+v, %v", name, done, err)
		}
	}
	if done, err := c.KeySpaceSet(ctx, "b", false); err != nil || !done.Changed || done.Registered {
		t.Errorf("remove: %+v, %v", done, err)
	}
	page, err := c.KeySpaceList(ctx, client.Page{Limit: 1})
	if err != nil || len(page.KeySpaces) != 1 || page.KeySpaces[0] != "a" || page.Next != "a" {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	if page, err = c.KeySpaceList(ctx, client.Page{After: page.Next}); err != nil || len(page.KeySpaces) != 1 || page.KeySpaces[0] != "c" || page.Next != "" {
		t.Errorf("last page: %+v, %v", page, err)
	}
	_, err = c.KeySpaceSet(ctx, "a/meta", true)
	wantError(t, err, client.ErrInvalid)
}

// What holds history and what names groups of keys asks for the verb that
// changing keys does, and looking for the one that reading does.
func TestHistoryIsJudgedOnTheStream(t *testing.T) {
	ctx := t.Context()
	reader := startAgent(t, allowing(own(policy.Read))).client(t)
	_, err := reader.SnapshotHold(ctx, "export", moment(t, "5"), time.Minute)
	wantError(t, err, client.ErrDenied)
	_, err = reader.SnapshotRenew(ctx, "00", time.Minute)
	wantError(t, err, client.ErrDenied)
	wantError(t, reader.SnapshotRelease(ctx, "00"), client.ErrDenied)
	_, err = reader.KeySpaceSet(ctx, "a", true)
	wantError(t, err, client.ErrDenied)
	if _, err = reader.SnapshotList(ctx); err != nil {
		t.Errorf("a reader lists holds: %v", err)
	}
	if _, err = reader.KeySpaceList(ctx, client.Page{}); err != nil {
		t.Errorf("a reader lists key spaces: %v", err)
	}
	locker := startAgent(t, allowing(own(policy.Lock))).client(t)
	_, err = locker.SnapshotList(ctx)
	wantError(t, err, client.ErrDenied)
	_, err = locker.KeySpaceList(ctx, client.Page{})
	wantError(t, err, client.ErrDenied)
}
