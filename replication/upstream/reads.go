package upstream

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

const (
	// maxManyKeys bounds the keys of one call; their values come in one message.
	maxManyKeys = 1000
	// maxAtOnce bounds the calls under way for one request.
	maxAtOnce = 32
	// pageRows is the page of a read by bucket that names no limit.
	pageRows = 1000
	// scanCap is where Kahuna cuts a read by prefix, in each server's view and
	// without a word (KeyValueScanLimits.cs): so many rows may be all or not.
	scanCap = 4096
	// maxMissing is how many revisions in a row may be missing until the older ones
	// are taken for dropped.
	maxMissing = 16
	// maxHistory bounds the revisions of one answer: each is a call.
	maxHistory = 100
)

// get carries out Get.
func (c *Client) get(ctx context.Context, op *replication.Get) (*replication.Answer, error) {
	out := make([]*replication.Entry, len(op.GetKeys()))
	// Those that can share a call, by table: an answer names the key and no more, so
	// that a key that is asked for twice is not among them.
	together := map[replication.Durability]map[string]int{}
	var alone []int
	for i, k := range op.GetKeys() {
		if strings.HasPrefix(k.GetKey(), "__kahuna:") {
			return nil, refuse(replication.Code_CODE_INVALID, "the key %s belongs to the Kahuna cluster itself", quoted(k.GetKey()))
		}
		of := together[k.GetDurability()]
		if of == nil {
			of = map[string]int{}
			together[k.GetDurability()] = of
		}
		if _, twice := of[k.GetKey()]; twice || k.Revision != nil || len(op.GetKeys()) == 1 {
			alone = append(alone, i)
			continue
		}
		of[k.GetKey()] = i
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxAtOnce)
	for _, i := range alone {
		group.Go(func() (err error) {
			out[i], err = c.getOne(ctx, nil, op.GetKeys()[i], op.GetAsOf(), op.GetKeysOnly())
			return err
		})
	}
	for d, places := range together {
		group.Go(func() error { return c.getTogether(ctx, op, d, places, out) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return entries(&replication.Entries{Entries: out}), nil
}

func entries(e *replication.Entries) *replication.Answer {
	return &replication.Answer{Result: &replication.Answer_Entries{Entries: e}}
}

// getOne reads one key, in a transaction or outside.
func (c *Client) getOne(ctx context.Context, tx *txPlace, k *replication.GetKey, asOf *replication.Timestamp, keysOnly bool) (*replication.Entry, error) {
	revision := int64(newest)
	if k.Revision != nil {
		revision = k.GetRevision()
	}
	node, physical, counter := label(asOf)
	if keysOnly {
		a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcTryExistsKeyValueResponse, error) {
			req := &pb.GrpcTryExistsKeyValueRequest{Key: k.GetKey(), Revision: revision, Durability: table(k.GetDurability()),
				ReadTimestampNode: node, ReadTimestampPhysical: physical, ReadTimestampCounter: counter}
			req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter = tx.id()
			req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = tx.operation()
			return e.keys.TryExistsKeyValue(ctx, req)
		}, func(a *pb.GrpcTryExistsKeyValueResponse) bool { return kvUndecided(a.GetType()) })
		if err != nil {
			return nil, err
		}
		return hit(k, a.GetType(), existing{a}, true)
	}
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcTryGetKeyValueResponse, error) {
		req := &pb.GrpcTryGetKeyValueRequest{Key: k.GetKey(), Revision: revision, Durability: table(k.GetDurability()),
			ReadTimestampNode: node, ReadTimestampPhysical: physical, ReadTimestampCounter: counter}
		req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter = tx.id()
		req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = tx.operation()
		return e.keys.TryGetKeyValue(ctx, req)
	}, func(a *pb.GrpcTryGetKeyValueResponse) bool { return kvUndecided(a.GetType()) })
	if err != nil {
		return nil, err
	}
	return hit(k, a.GetType(), a, false)
}

// hit is the entry for what became of a read.
func hit(k *replication.GetKey, t pb.GrpcKeyValueResponseType, r row, keysOnly bool) (*replication.Entry, error) {
	switch t {
	case kvGot, kvExists:
		return entryOf(k.GetKey(), k.GetDurability(), r, keysOnly), nil
	case kvMissing:
		return &replication.Entry{Key: k.GetKey(), Durability: k.GetDurability()}, nil
	}
	return nil, kvRefusal(t)
}

// getTogether reads the newest values of different keys of one table. An item that
// was not decided is asked for alone.
func (c *Client) getTogether(ctx context.Context, op *replication.Get, d replication.Durability, places map[string]int, out []*replication.Entry) error {
	var items []*pb.GrpcTryManyValuesRequestItem
	flush := func() error {
		if len(items) == 0 {
			return nil
		}
		rows, err := c.readMany(ctx, op, items)
		if err != nil {
			return err
		}
		for _, item := range items {
			i, r := places[item.GetKey()], rows[item.GetKey()]
			if r == nil || kvUndecided(r.t) {
				if out[i], err = c.getOne(ctx, nil, op.GetKeys()[i], op.GetAsOf(), op.GetKeysOnly()); err != nil {
					return err
				}
				continue
			}
			if out[i], err = hit(op.GetKeys()[i], r.t, r.row, op.GetKeysOnly()); err != nil {
				return err
			}
		}
		items = nil
		return nil
	}
	for key := range places {
		items = append(items, &pb.GrpcTryManyValuesRequestItem{Key: key, Revision: newest, Durability: table(d)})
		if len(items) >= maxManyKeys {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// manyRow is one item of a many-key read.
type manyRow struct {
	t   pb.GrpcKeyValueResponseType
	row row
}

// readMany asks for keys of one table in one call, and returns what came back by
// key: the order is not the request's (keyvalue.md 4.7).
func (c *Client) readMany(ctx context.Context, op *replication.Get, items []*pb.GrpcTryManyValuesRequestItem) (map[string]*manyRow, error) {
	out := make(map[string]*manyRow, len(items))
	node, physical, counter := label(op.GetAsOf())
	if op.GetKeysOnly() {
		a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcTryExistsManyValuesResponse, error) {
			return e.keys.TryExistsManyValues(ctx, &pb.GrpcTryExistsManyValuesRequest{Items: items,
				ReadTimestampNode: node, ReadTimestampPhysical: physical, ReadTimestampCounter: counter})
		}, func(*pb.GrpcTryExistsManyValuesResponse) bool { return false })
		for _, item := range a.GetItems() {
			out[item.GetKey()] = &manyRow{item.GetType(), existingItem{item}}
		}
		return out, err
	}
	a, _, err := ask(ctx, c, reading, func(ctx context.Context, e *endpoint) (*pb.GrpcTryGetManyValuesResponse, error) {
		return e.keys.TryGetManyValues(ctx, &pb.GrpcTryGetManyValuesRequest{Items: items,
			ReadTimestampNode: node, ReadTimestampPhysical: physical, ReadTimestampCounter: counter})
	}, func(*pb.GrpcTryGetManyValuesResponse) bool { return false })
	for _, item := range a.GetItems() {
		out[item.GetKey()] = &manyRow{item.GetType(), item}
	}
	return out, err
}

// existingItem is a row of a many-key answer that has no value.
type existingItem struct {
	*pb.GrpcTryExistsManyValuesResponseItem
}

// GetValue implements row.
func (existingItem) GetValue() []byte { return nil }

// history carries out History: revision by revision, since Kahuna has no call for
// more. The newest number is known of a key that exists, and of before.
func (c *Client) history(ctx context.Context, op *replication.History) (*replication.Answer, error) {
	at := op.GetBefore() - 1
	key := &replication.GetKey{Durability: op.GetDurability(), Key: op.GetKey()}
	if op.Before == nil {
		head, err := c.getOne(ctx, nil, key, nil, true)
		if err != nil {
			return nil, err
		}
		if !head.GetFound() {
			return nil, refuse(replication.Code_CODE_NOT_FOUND, "there is no such key; of one that was deleted a Kahuna cluster shows no history (upstream mode), unless a revision to start before is named")
		}
		at = head.GetRevision()
	}
	limit := int(min(max(op.GetLimit(), 0), maxHistory))
	if limit == 0 {
		limit = maxHistory
	}
	out := &replication.Entries{}
	for missing := 0; at >= 0 && missing < maxMissing; at-- {
		if len(out.Entries) == limit {
			out.More = true
			break
		}
		key := &replication.GetKey{Durability: op.GetDurability(), Key: op.GetKey(), Revision: &at}
		e, err := c.getOne(ctx, nil, key, nil, false)
		if err != nil {
			var refused *replication.RefusedError
			if errors.As(err, &refused) && refused.Code == replication.Code_CODE_ABORTED {
				break // older than what is kept
			}
			return nil, err
		}
		if !e.GetFound() {
			missing++ // a deletion, or no longer kept
			continue
		}
		missing = 0
		out.Entries = append(out.Entries, e)
	}
	return entries(out), nil
}
