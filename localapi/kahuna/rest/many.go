package rest

import (
	"context"
	"encoding/json"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// setManyRequest is KahunaSetManyKeyValueRequest.
type setManyRequest struct {
	Items list[setItem] `json:"items"`
}

// setItem is KahunaSetKeyValueRequestItem.
type setItem struct {
	TransactionID    hlc        `json:"transactionId"`
	Key              *string    `json:"key"`
	Value            payload    `json:"value"`
	CompareValue     payload    `json:"compareValue"`
	CompareRevision  int64Value `json:"compareRevision"`
	ExpiresMs        int32Value `json:"expiresMs"`
	Flags            keyFlags   `json:"flags"`
	Durability       durability `json:"durability"`
	RoutedGeneration int64Value `json:"routedGeneration"`
}

// deleteManyRequest is KahunaDeleteManyKeyValueRequest: the whole list is one
// operation of a session.
type deleteManyRequest struct {
	Items           list[deleteItem] `json:"items"`
	CoordinatorKey  *string          `json:"coordinatorKey"`
	OperationIDHigh uint64Value      `json:"operationIdHigh"`
	OperationIDLow  uint64Value      `json:"operationIdLow"`
}

// deleteItem is KahunaDeleteKeyValueRequestItem.
type deleteItem struct {
	TransactionID hlc        `json:"transactionId"`
	Key           *string    `json:"key"`
	Durability    durability `json:"durability"`
}

// readManyRequest is KahunaManyKeyValuesRequest.
type readManyRequest struct {
	TransactionID hlc            `json:"transactionId"`
	ReadTimestamp hlc            `json:"readTimestamp"`
	Items         list[readItem] `json:"items"`
}

// readItem is KahunaGetManyKeyValuesRequestItem. A revision left out is the newest,
// unlike in a single read (R20).
type readItem struct {
	Key        *string    `json:"key"`
	Revision   int64Value `json:"revision"`
	Durability durability `json:"durability"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *readItem) UnmarshalJSON(raw []byte) error {
	type plain readItem
	in.Revision = -1
	return json.Unmarshal(raw, (*plain)(in))
}

// writeManyResponse is KahunaSetManyKeyValueResponse and that of delete-many. Its
// type is of the whole call: what became of an item is in the item (R22).
type writeManyResponse struct {
	Type          int32           `json:"type"`
	Items         []writeManyItem `json:"items"`
	TimeElapsedMs int32           `json:"timeElapsedMs"`
	Routes        []*hint         `json:"routes"`
}

type writeManyItem struct {
	ServedFrom   *string `json:"servedFrom"`
	Key          *string `json:"key"`
	Type         int32   `json:"type"`
	Revision     int64   `json:"revision"`
	LastModified hlc     `json:"lastModified"`
	Durability   int32   `json:"durability"`
	RouteIndex   int32   `json:"routeIndex"`
}

// readManyResponse is KahunaManyKeyValuesResponse.
type readManyResponse struct {
	Type          int32          `json:"type"`
	ServedFrom    *string        `json:"servedFrom"`
	Items         []readManyItem `json:"items"`
	TimeElapsedMs int32          `json:"timeElapsedMs"`
	Routes        []*hint        `json:"routes"`
}

type readManyItem struct {
	Key          string  `json:"key"`
	Type         int32   `json:"type"`
	Value        payload `json:"value"`
	Revision     int64   `json:"revision"`
	LastModified hlc     `json:"lastModified"`
	Durability   int32   `json:"durability"`
	RouteIndex   int32   `json:"routeIndex"`
}

func manyRoutes() []route {
	return []route{
		post("/v1/kv/try-set-many", keyMustRetry, setMany),
		post("/v1/kv/try-delete-many", keyMustRetry, deleteMany),
		post("/v1/kv/try-get-many", keyMustRetry, getMany),
		post("/v1/kv/try-exists-many", keyMustRetry, existsMany),
	}
}

func setMany(ctx context.Context, s Service, in *setManyRequest) (answer, error) {
	if in.Items == nil {
		return noItemsToWrite()
	}
	req := &pb.GrpcTrySetManyKeyValueRequest{Items: make([]*pb.GrpcTrySetManyKeyValueRequestItem, 0, len(in.Items))}
	transactional := false
	for _, item := range in.Items {
		transactional = transactional || item.TransactionID != hlc{}
		req.Items = append(req.Items, &pb.GrpcTrySetManyKeyValueRequestItem{
			TransactionIdNode: item.TransactionID.node(), TransactionIdPhysical: item.TransactionID.physical(), TransactionIdCounter: item.TransactionID.counter(),
			Key: text(item.Key), Value: item.Value, CompareValue: item.CompareValue, CompareRevision: int64(item.CompareRevision),
			Flags: pb.GrpcKeyValueFlags(item.Flags), ExpiresMs: int32(item.ExpiresMs), Durability: pb.GrpcKeyValueDurability(item.Durability),
			RoutedGeneration: int64(item.RoutedGeneration)})
	}
	start := time.Now()
	a, err := s.TrySetManyKeyValue(ctx, req)
	if err != nil {
		return answer{}, err
	}
	body := writeManyResponse{Type: int32(pb.GrpcKeyValueResponseType_TYPE_SET), Items: make([]writeManyItem, 0, len(a.GetItems())),
		TimeElapsedMs: since(start), Routes: hintsOf(a.GetRoutes())}
	if transactional { // refused as a whole, and said so (R21)
		body.Type = keyInvalidInput
	}
	for _, i := range a.GetItems() {
		key := i.GetKey()
		body.Items = append(body.Items, writeManyItem{i.ServedFrom, &key, int32(i.GetType()), i.GetRevision(),
			stamp(i.GetLastModifiedNode(), i.GetLastModifiedPhysical(), i.GetLastModifiedCounter()), int32(i.GetDurability()), i.GetRouteIndex()})
	}
	return ok(body)
}

func deleteMany(ctx context.Context, s Service, in *deleteManyRequest) (answer, error) {
	if in.Items == nil {
		return noItemsToWrite()
	}
	req := &pb.GrpcTryDeleteManyKeyValueRequest{Items: make([]*pb.GrpcTryDeleteManyKeyValueRequestItem, 0, len(in.Items)),
		CoordinatorKey: in.CoordinatorKey, OperationIdHigh: (*uint64)(&in.OperationIDHigh), OperationIdLow: (*uint64)(&in.OperationIDLow)}
	transactional := false
	for _, item := range in.Items {
		transactional = transactional || item.TransactionID != hlc{}
		req.Items = append(req.Items, &pb.GrpcTryDeleteManyKeyValueRequestItem{
			TransactionIdNode: item.TransactionID.node(), TransactionIdPhysical: item.TransactionID.physical(), TransactionIdCounter: item.TransactionID.counter(),
			Key: text(item.Key), Durability: pb.GrpcKeyValueDurability(item.Durability)})
	}
	start := time.Now()
	a, err := s.TryDeleteManyKeyValue(ctx, req)
	if err != nil {
		return answer{}, err
	}
	body := writeManyResponse{Type: int32(pb.GrpcKeyValueResponseType_TYPE_DELETED), Items: make([]writeManyItem, 0, len(a.GetItems())),
		TimeElapsedMs: since(start), Routes: hintsOf(a.GetRoutes())}
	identified := text(in.CoordinatorKey) != "" && (in.OperationIDHigh != 0 || in.OperationIDLow != 0)
	if transactional && !identified { // refused as a whole, and said so (R21)
		body.Type = keyInvalidInput
	}
	for _, i := range a.GetItems() {
		key := i.GetKey()
		body.Items = append(body.Items, writeManyItem{i.ServedFrom, &key, int32(i.GetType()), i.GetRevision(),
			stamp(i.GetLastModifiedNode(), i.GetLastModifiedPhysical(), i.GetLastModifiedCounter()), int32(i.GetDurability()), i.GetRouteIndex()})
	}
	return ok(body)
}

// noItemsToWrite answers a list that is null: one item that names no key (R18).
func noItemsToWrite() (answer, error) {
	return ok(writeManyResponse{Type: keyInvalidInput, Items: []writeManyItem{{Type: keyInvalidInput}}})
}

// noItemsToRead answers a list that is null (R18).
func noItemsToRead() (answer, error) {
	return ok(readManyResponse{Type: keyInvalidInput, Items: []readManyItem{}})
}

// readManyType is the type of a whole call: a success unless it was refused for
// being of a transaction (R21, R22).
func readManyType(in *readManyRequest) int32 {
	if in.TransactionID != (hlc{}) {
		return keyInvalidInput
	}
	return keyGot
}

func (in *readManyRequest) items() []*pb.GrpcTryManyValuesRequestItem {
	items := make([]*pb.GrpcTryManyValuesRequestItem, 0, len(in.Items))
	for _, item := range in.Items {
		items = append(items, &pb.GrpcTryManyValuesRequestItem{Key: text(item.Key), Revision: int64(item.Revision),
			Durability: pb.GrpcKeyValueDurability(item.Durability)})
	}
	return items
}

func getMany(ctx context.Context, s Service, in *readManyRequest) (answer, error) {
	if in.Items == nil {
		return noItemsToRead()
	}
	start := time.Now()
	a, err := s.TryGetManyValues(ctx, &pb.GrpcTryGetManyValuesRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		Items: in.items()})
	if err != nil {
		return answer{}, err
	}
	body := readManyResponse{Type: readManyType(in), Items: make([]readManyItem, 0, len(a.GetItems())), TimeElapsedMs: since(start), Routes: hintsOf(a.GetRoutes())}
	for _, i := range a.GetItems() {
		body.Items = append(body.Items, readManyItem{i.GetKey(), int32(i.GetType()), i.Value, i.GetRevision(),
			stamp(i.GetLastModifiedNode(), i.GetLastModifiedPhysical(), i.GetLastModifiedCounter()), int32(i.GetDurability()), i.GetRouteIndex()})
	}
	return ok(body)
}

func existsMany(ctx context.Context, s Service, in *readManyRequest) (answer, error) {
	if in.Items == nil {
		return noItemsToRead()
	}
	start := time.Now()
	a, err := s.TryExistsManyValues(ctx, &pb.GrpcTryExistsManyValuesRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		Items: in.items()})
	if err != nil {
		return answer{}, err
	}
	body := readManyResponse{Type: readManyType(in), Items: make([]readManyItem, 0, len(a.GetItems())), TimeElapsedMs: since(start), Routes: hintsOf(a.GetRoutes())}
	for _, i := range a.GetItems() {
		body.Items = append(body.Items, readManyItem{i.GetKey(), int32(i.GetType()), nil, i.GetRevision(),
			stamp(i.GetLastModifiedNode(), i.GetLastModifiedPhysical(), i.GetLastModifiedCounter()), int32(i.GetDurability()), i.GetRouteIndex()})
	}
	return ok(body)
}

// since is what timeElapsedMs says: how long Service took.
func since(start time.Time) int32 { return int32(time.Since(start).Milliseconds()) }
