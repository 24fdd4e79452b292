package upstream

import (
	"context"
	"slices"
	"strings"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// scan carries out Range. A bucket is in one partition of the cluster, and is read
// page by page, linearizably; any other prefix is collected from all of them.
func (c *Client) scan(ctx context.Context, r *replication.Range) (*replication.Answer, error) {
	if r.GetDescending() {
		return nil, notHere("list keys in descending order")
	}
	if r.GetBucket() {
		e, err := c.bucketPage(ctx, nil, r, r.GetAsOf())
		if err != nil {
			return nil, err
		}
		return entries(e), nil
	}
	return c.scanPrefix(ctx, r)
}

// bucketPage reads a page of a bucket, in a transaction or outside. The keys of
// bucket P are P/<rest without slash>, which begin at P/ and end before P0: others
// that the partition has between them are left out.
func (c *Client) bucketPage(ctx context.Context, tx *txPlace, r *replication.Range, asOf *replication.Timestamp) (*replication.Entries, error) {
	if r.GetPrefix() == "" {
		return nil, notHere("list the keys of a bucket without a name")
	}
	first, behind := r.GetPrefix()+"/", r.GetPrefix()+"0" // 0 is what comes after /
	req := &pb.GrpcGetByRangeRequest{Prefix: r.GetPrefix(), StartKey: &first, StartInclusive: true, EndKey: &behind, Durability: table(r.GetDurability())}
	if r.Start != nil && r.GetStart() >= first {
		req.StartKey, req.StartInclusive = r.Start, !r.GetStartExclusive()
	}
	if r.End != nil && r.GetEnd() < behind {
		req.EndKey, req.EndInclusive = r.End, r.GetEndInclusive()
	}
	req.ReadTimestampNode, req.ReadTimestampPhysical, req.ReadTimestampCounter = label(asOf)
	limit := pageRows
	if r.GetLimit() > 0 && r.GetLimit() < pageRows {
		limit = int(r.GetLimit())
	}
	req.Limit = int32(limit)
	out := &replication.Entries{}
	for {
		a, err := c.rangePage(ctx, tx, req)
		if err != nil {
			return nil, err
		}
		items := a.GetItems()
		for _, item := range items {
			rest, in := strings.CutPrefix(item.GetKey(), first)
			if !in || strings.Contains(rest, "/") {
				continue
			}
			if len(out.Entries) == limit {
				out.More = true
				return out, nil
			}
			out.Entries = append(out.Entries, entryOf(item.GetKey(), r.GetDurability(), item, r.GetKeysOnly()))
		}
		if !a.GetHasMore() {
			return out, nil
		}
		if len(items) == 0 {
			// Looked at so many deleted ones that it stopped: where, it does not say.
			return nil, refuse(replication.Code_CODE_LIMIT, "the Kahuna cluster behind this agent gave up on the bucket %s: it has too many deleted keys", quoted(r.GetPrefix()))
		}
		last := items[len(items)-1].GetKey()
		req.StartKey, req.StartInclusive = &last, false
	}
}

// rangePage asks for one page.
func (c *Client) rangePage(ctx context.Context, tx *txPlace, req *pb.GrpcGetByRangeRequest) (*pb.GrpcGetByRangeResponse, error) {
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter = tx.id()
	req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = tx.next().operation()
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcGetByRangeResponse, error) {
		return e.keys.GetByRange(ctx, req)
	}, func(a *pb.GrpcGetByRangeResponse) bool { return kvUndecided(a.GetType()) })
	switch {
	case err != nil:
		return nil, err
	case a.GetType() == kvMissing:
		return &pb.GrpcGetByRangeResponse{}, nil
	}
	return a, kvRefusal(a.GetType())
}

// scanPrefix reads all keys with a prefix, and takes a page out of them. Kahuna
// cuts such a read without a word: one that may be cut is refused.
func (c *Client) scanPrefix(ctx context.Context, r *replication.Range) (*replication.Answer, error) {
	node, physical, counter := label(r.GetAsOf())
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcScanAllByPrefixResponse, error) {
		return e.keys.ScanAllByPrefix(ctx, &pb.GrpcScanAllByPrefixRequest{PrefixKey: r.GetPrefix(), Durability: table(r.GetDurability()),
			ReadTimestampNode: node, ReadTimestampPhysical: physical, ReadTimestampCounter: counter})
	}, func(a *pb.GrpcScanAllByPrefixResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	if a.GetType() != kvMissing {
		if err := kvRefusal(a.GetType()); err != nil {
			return nil, err
		}
	}
	items := a.GetItems()
	if len(items) >= scanCap {
		return nil, refuse(replication.Code_CODE_LIMIT, "the Kahuna cluster behind this agent cuts a list by prefix at %d keys (upstream mode): name a longer prefix, or a bucket", scanCap)
	}
	slices.SortFunc(items, func(a, b *pb.GrpcKeyValueByPrefixItemResponse) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	limit := pageRows
	if r.GetLimit() > 0 {
		limit = int(min(r.GetLimit(), replication.MaxPageRows))
	}
	out := &replication.Entries{}
	for _, item := range items {
		if !within(r, item.GetKey()) {
			continue
		}
		if len(out.Entries) == limit {
			out.More = true
			break
		}
		out.Entries = append(out.Entries, entryOf(item.GetKey(), r.GetDurability(), item, r.GetKeysOnly()))
	}
	return entries(out), nil
}

// within reports whether a key is between the bounds of a range.
func within(r *replication.Range, key string) bool {
	switch {
	case !strings.HasPrefix(key, r.GetPrefix()), strings.HasPrefix(key, "__kahuna:"):
		return false
	case r.Start != nil && (key < r.GetStart() || key == r.GetStart() && r.GetStartExclusive()):
		return false
	case r.End != nil && (key > r.GetEnd() || key == r.GetEnd() && !r.GetEndInclusive()):
		return false
	}
	return true
}
