package rest

import (
	"context"
	"math"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// bounds are the ends of a range.
type bounds struct {
	Prefix         *string   `json:"prefix"`
	StartKey       *string   `json:"startKey"`
	StartInclusive boolValue `json:"startInclusive"`
	EndKey         *string   `json:"endKey"`
	EndInclusive   boolValue `json:"endInclusive"`
}

// rangeRequest is KahunaGetByRangeRequest. Its limit is read as 64 bits: kahuna-ts
// sends 2^53-1 for "no limit" (decision 29).
type rangeRequest struct {
	transaction
	bounds
	Limit         int64Value `json:"limit"`
	ReadTimestamp hlc        `json:"readTimestamp"`
	Durability    durability `json:"durability"`
	Cursor        *string    `json:"cursor"`
}

// bucketRequest is KahunaGetByBucketRequest.
type bucketRequest struct {
	transaction
	PrefixKey     *string    `json:"prefixKey"`
	ReadTimestamp hlc        `json:"readTimestamp"`
	Durability    durability `json:"durability"`
}

// scanRequest is KahunaScanAllByPrefixRequest.
type scanRequest struct {
	PrefixKey     *string    `json:"prefixKey"`
	ReadTimestamp hlc        `json:"readTimestamp"`
	Durability    durability `json:"durability"`
}

// scanResponse is KahunaGetByBucketResponse; items are null when the call was
// refused here (R23).
type scanResponse struct {
	ServedFrom *string    `json:"servedFrom"`
	Type       int32      `json:"type"`
	Items      []scanItem `json:"items"`
}

// rangeResponse is KahunaGetByRangeResponse.
type rangeResponse struct {
	ServedFrom *string    `json:"servedFrom"`
	Type       int32      `json:"type"`
	Items      []scanItem `json:"items"`
	NextCursor *string    `json:"nextCursor"`
	HasMore    bool       `json:"hasMore"`
}

type scanItem struct {
	Key          string  `json:"key"`
	Value        payload `json:"value"`
	Revision     int64   `json:"revision"`
	LastModified hlc     `json:"lastModified"`
}

func scanRoutes() []route {
	return []route{
		post("/v1/kv/get-by-range", keyMustRetry, getRange),
		post("/v1/kv/get-by-bucket", keyMustRetry, getBucket),
		post("/v1/kv/scan-all-by-prefix", keyMustRetry, scanPrefix),
	}
}

// getRange reads one page. A cursor takes the place of the start and of the time,
// so that all pages see one state (R23).
func getRange(ctx context.Context, s Service, in *rangeRequest) (answer, error) {
	if text(in.Prefix) == "" {
		return ok(rangeResponse{Type: keyInvalidInput})
	}
	req := &pb.GrpcGetByRangeRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Prefix: text(in.Prefix), StartKey: in.StartKey, StartInclusive: in.StartKey == nil || bool(in.StartInclusive),
		EndKey: in.EndKey, EndInclusive: in.EndKey != nil && bool(in.EndInclusive), Limit: limit(int64(in.Limit)),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		Durability:     pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)}
	if c := text(in.Cursor); c != "" && !kahuna.Continue(req, c) {
		return ok(rangeResponse{Type: keyInvalidInput})
	}
	a, err := s.GetByRange(ctx, req)
	if err != nil {
		return answer{}, err
	}
	return ok(rangeResponse{nil, int32(a.GetType()), scanItems(a.GetItems()), a.NextCursor, a.GetHasMore()})
}

// limit is 0, "no limit", for what does not fit gRPC's 32 bits.
func limit(n int64) int32 {
	if n <= 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}

// getBucket refuses an empty prefix with 100, where gRPC says 99.
func getBucket(ctx context.Context, s Service, in *bucketRequest) (answer, error) {
	if text(in.PrefixKey) == "" {
		return ok(scanResponse{Type: keyInvalidInput})
	}
	a, err := s.GetByBucket(ctx, &pb.GrpcGetByBucketRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		PrefixKey: text(in.PrefixKey), Durability: pb.GrpcKeyValueDurability(in.Durability),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(scanResponse{nil, int32(a.GetType()), scanItems(a.GetItems())})
}

// scanPrefix refuses an empty prefix, where gRPC reads everything.
func scanPrefix(ctx context.Context, s Service, in *scanRequest) (answer, error) {
	if text(in.PrefixKey) == "" {
		return ok(scanResponse{Type: keyInvalidInput})
	}
	a, err := s.ScanAllByPrefix(ctx, &pb.GrpcScanAllByPrefixRequest{PrefixKey: text(in.PrefixKey), Durability: pb.GrpcKeyValueDurability(in.Durability),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter()})
	if err != nil {
		return answer{}, err
	}
	return ok(scanResponse{nil, int32(a.GetType()), scanItems(a.GetItems())})
}

func scanItems(rows []*pb.GrpcKeyValueByPrefixItemResponse) []scanItem {
	items := make([]scanItem, 0, len(rows))
	for _, r := range rows {
		items = append(items, scanItem{r.GetKey(), r.Value, r.GetRevision(),
			stamp(r.GetLastModifiedNode(), r.GetLastModifiedPhysical(), r.GetLastModifiedCounter())})
	}
	return items
}
