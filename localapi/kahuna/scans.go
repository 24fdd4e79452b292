package kahuna

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// scan is one read of many keys, page by page as of one time.
type scan struct {
	s    *Service
	tx   *replication.TxRef // nil outside
	asOf *replication.Timestamp
	own  bool // asOf is that of the first page, and not the caller's
	r    *replication.Range
}

// page reads the next rows, and makes the scan stand behind them.
func (c *scan) page(ctx context.Context) (*replication.Entries, pb.GrpcKeyValueResponseType, error) {
	r := c.rangeOnly()
	req := &replication.Request{}
	if c.tx == nil {
		r.AsOf = c.asOf
		req.Op = &replication.Request_Range{Range: r}
	} else {
		req.Op = &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: c.tx, Range: r, AsOf: c.asOf}}
	}
	a, err := c.s.ask(ctx, req)
	t, err := kvOutcome(a, err, kvGot)
	if err != nil || t != kvGot {
		return nil, t, err
	}
	if c.tx == nil && c.asOf == nil {
		c.asOf, c.own = a.GetTime(), true
	}
	e := a.GetEntries()
	if n := len(e.GetEntries()); n > 0 {
		c.r.Start, c.r.StartExclusive = &e.Entries[n-1].Key, true
	}
	if e.GetMore() && e.Resume != nil {
		c.r.Start, c.r.StartExclusive = e.Resume, true
		if len(e.GetEntries()) == 0 { // nothing but deleted keys so far
			return c.page(ctx)
		}
	}
	return e, t, nil
}

// rangeOnly is the range as it stands: a request belongs to whom it was given.
func (c *scan) rangeOnly() *replication.Range {
	return &replication.Range{Durability: c.r.Durability, Prefix: c.r.Prefix, Bucket: c.r.Bucket, Start: c.r.Start,
		StartExclusive: c.r.StartExclusive, End: c.r.End, EndInclusive: c.r.EndInclusive, Limit: c.r.Limit}
}

// all reads every page. A scan never ends silently before its end: beyond
// MaxScanRows or the largest message it fails (decisions.md 29).
func (c *scan) all(ctx context.Context) ([]*pb.GrpcKeyValueByPrefixItemResponse, pb.GrpcKeyValueResponseType, error) {
	limited, cancel := c.s.bound(ctx)
	defer cancel()
	var rows []*pb.GrpcKeyValueByPrefixItemResponse
	size := 0
	for {
		e, t, err := c.page(limited)
		if t == kvAborted && c.own {
			// The history that this scan pinned by itself went while it was reading.
			return nil, kvRetry, nil
		}
		if err != nil || t != kvGot {
			return nil, t, err
		}
		for _, entry := range e.GetEntries() {
			row := rowOf(entry)
			rows, size = append(rows, row), size+row.SizeVT()+4
		}
		if len(rows) > MaxScanRows || size > c.s.cfg.MaxMessageBytes {
			return nil, kvErrored, status.Errorf(codes.ResourceExhausted,
				"the scan has more than %d rows or %d bytes: read it with GetByRangeStream, or in pages with GetByRange", MaxScanRows, c.s.cfg.MaxMessageBytes)
		}
		if !e.GetMore() {
			return rows, kvGot, nil
		}
	}
}

func rowOf(e *replication.Entry) *pb.GrpcKeyValueByPrefixItemResponse {
	row := &pb.GrpcKeyValueByPrefixItemResponse{Key: e.Key, Value: e.Value, Revision: e.Revision,
		ExpiresPhysical: e.ExpiresAtMs, State: pb.GrpcKeyValueState_STATE_SET}
	row.LastModifiedNode, row.LastModifiedPhysical, row.LastModifiedCounter = label(e.Modified)
	return row
}

func rowsOf(entries []*replication.Entry) []*pb.GrpcKeyValueByPrefixItemResponse {
	rows := make([]*pb.GrpcKeyValueByPrefixItemResponse, 0, len(entries))
	for _, e := range entries {
		rows = append(rows, rowOf(e))
	}
	return rows
}

// GetByBucket reads exactly the keys PREFIX/<rest without slash>, in order.
func (s *Service) GetByBucket(ctx context.Context, req *pb.GrpcGetByBucketRequest) (*pb.GrpcGetByBucketResponse, error) {
	tx, ok := txRef(req)
	if req.GetPrefixKey() == "" {
		return &pb.GrpcGetByBucketResponse{Type: kvErrored}, nil
	}
	if !ok {
		return &pb.GrpcGetByBucketResponse{Type: kvInvalid}, nil
	}
	if err := s.need(ctx, policy.Read, req.PrefixKey+"/"); err != nil {
		return nil, err
	}
	c := &scan{s: s, tx: tx, asOf: stamp(req.ReadTimestampNode, req.ReadTimestampPhysical, req.ReadTimestampCounter),
		r: &replication.Range{Durability: durability(req.Durability), Prefix: req.PrefixKey, Bucket: true}}
	rows, t, err := c.all(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcGetByBucketResponse{Type: t, Items: rows}, nil
}

// ScanAllByPrefix reads all keys with a prefix, in order. It is never part of a
// transaction.
func (s *Service) ScanAllByPrefix(ctx context.Context, req *pb.GrpcScanAllByPrefixRequest) (*pb.GrpcScanAllByPrefixResponse, error) {
	if err := s.need(ctx, policy.Read, req.GetPrefixKey()); err != nil {
		return nil, err
	}
	c := &scan{s: s, asOf: stamp(req.ReadTimestampNode, req.ReadTimestampPhysical, req.ReadTimestampCounter),
		r: &replication.Range{Durability: durability(req.Durability), Prefix: req.PrefixKey}}
	rows, t, err := c.all(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcScanAllByPrefixResponse{Type: t, Items: rows}, nil
}

// rangeScan begins a range read. ok is false for one that is refused.
func (s *Service) rangeScan(req *pb.GrpcGetByRangeRequest) (*scan, bool) {
	tx, ok := txRef(req)
	if !ok || req.GetPrefix() == "" {
		return nil, false
	}
	r := &replication.Range{Durability: durability(req.Durability), Prefix: req.Prefix, Limit: int64(req.Limit)}
	if req.StartKey != nil {
		r.Start, r.StartExclusive = req.StartKey, !req.StartInclusive
	}
	if req.EndKey != nil {
		r.End, r.EndInclusive = req.EndKey, req.EndInclusive
	}
	return &scan{s: s, tx: tx, r: r,
		asOf: stamp(req.ReadTimestampNode, req.ReadTimestampPhysical, req.ReadTimestampCounter)}, true
}

// cursor is where the page after this one begins, nil after the last.
func (c *scan) cursor(e *replication.Entries) *string {
	if !e.GetMore() || c.r.Start == nil {
		return nil
	}
	text := cursor{lastKey: *c.r.Start, prefix: c.r.Prefix, durability: c.r.Durability, at: c.asOf}.encode()
	return &text
}

// GetByRange reads one page of the keys with a prefix, between bounds that are
// full keys. A Limit of 0 or less is as many as fit a page.
func (s *Service) GetByRange(ctx context.Context, req *pb.GrpcGetByRangeRequest) (*pb.GrpcGetByRangeResponse, error) {
	c, ok := s.rangeScan(req)
	if !ok {
		return &pb.GrpcGetByRangeResponse{Type: kvInvalid}, nil
	}
	if err := s.need(ctx, policy.Read, req.Prefix); err != nil {
		return nil, err
	}
	e, t, err := c.page(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcGetByRangeResponse{Type: t, Items: rowsOf(e.GetEntries()), NextCursor: c.cursor(e), HasMore: e.GetMore()}, nil
}

// streamPageRows is the page of a stream that names no limit.
const streamPageRows = 1000

// GetByRangeStream reads all pages as of one time. Nothing is sent for an empty
// prefix, and a failure between pages is the status of the stream: a page that
// says MustRetry would end it silently (keyvalue.md 5.4).
func (s *Service) GetByRangeStream(req *pb.GrpcGetByRangeRequest, stream grpc.ServerStreamingServer[pb.GrpcGetByRangePageResponse]) error {
	if req.GetPrefix() == "" {
		return nil
	}
	c, ok := s.rangeScan(req)
	if !ok {
		return status.Error(codes.InvalidArgument, "a transaction goes with its coordinator key and an operation id")
	}
	ctx := stream.Context()
	if err := s.need(ctx, policy.Read, req.Prefix); err != nil {
		return err
	}
	if c.r.Limit <= 0 {
		c.r.Limit = streamPageRows
	}
	for {
		e, t, err := c.page(ctx)
		switch {
		case err != nil:
			return err
		case t == kvRetry:
			return status.Error(codes.Unavailable, "no quorum answered in time")
		case t == kvAborted && c.own:
			return status.Error(codes.Unavailable, "the history that this scan reads was dropped meanwhile: read again, or hold a snapshot")
		}
		more := e.GetMore()
		if err := stream.Send(&pb.GrpcGetByRangePageResponse{Type: t, Items: rowsOf(e.GetEntries()), NextCursor: c.cursor(e), HasMore: more}); err != nil {
			return err // the client has gone
		}
		if t != kvGot || !more {
			return nil
		}
	}
}
