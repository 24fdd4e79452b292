package rest

import (
	"context"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

const (
	keyGot          = int32(pb.GrpcKeyValueResponseType_TYPE_GOT)
	keyInvalidInput = int32(pb.GrpcKeyValueResponseType_TYPE_INVALID_INPUT)
	keyMustRetry    = int32(pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY)
)

// transaction is what a request of a session carries beside its own fields.
type transaction struct {
	TransactionID   hlc         `json:"transactionId"`
	CoordinatorKey  *string     `json:"coordinatorKey"`
	OperationIDHigh uint64Value `json:"operationIdHigh"`
	OperationIDLow  uint64Value `json:"operationIdLow"`
}

// setRequest is KahunaSetKeyValueRequest. A null value is stored as such (R19).
type setRequest struct {
	transaction
	Key             *string    `json:"key"`
	Value           payload    `json:"value"`
	CompareValue    payload    `json:"compareValue"`
	CompareRevision int64Value `json:"compareRevision"`
	ExpiresMs       int32Value `json:"expiresMs"`
	Flags           keyFlags   `json:"flags"`
	Durability      durability `json:"durability"`
}

// extendRequest is KahunaExtendKeyValueRequest.
type extendRequest struct {
	transaction
	Key        *string    `json:"key"`
	ExpiresMs  int32Value `json:"expiresMs"`
	Durability durability `json:"durability"`
}

// deleteRequest is KahunaDeleteKeyValueRequest.
type deleteRequest struct {
	transaction
	Key        *string    `json:"key"`
	Durability durability `json:"durability"`
}

// readRequest is KahunaGetKeyValueRequest and KahunaExistsKeyValueRequest. A
// revision left out is revision 0; the newest is -1 (R20).
type readRequest struct {
	transaction
	Key           *string    `json:"key"`
	Revision      int64Value `json:"revision"`
	ReadTimestamp hlc        `json:"readTimestamp"`
	Durability    durability `json:"durability"`
}

// writeResponse is KahunaSetKeyValueResponse and those of extend and delete, whose
// servedFrom is always null (R24).
type writeResponse struct {
	ServedFrom   *string `json:"servedFrom"`
	Type         int32   `json:"type"`
	Revision     int64   `json:"revision"`
	LastModified hlc     `json:"lastModified"`
	Route        *hint   `json:"route"`
}

// getResponse is KahunaGetKeyValueResponse.
type getResponse struct {
	ServedFrom   *string `json:"servedFrom"`
	Type         int32   `json:"type"`
	Value        payload `json:"value"`
	Revision     int64   `json:"revision"`
	Expires      hlc     `json:"expires"`
	LastModified hlc     `json:"lastModified"`
	Route        *hint   `json:"route"`
}

// existsResponse is KahunaExistsKeyValueResponse.
type existsResponse struct {
	ServedFrom   *string `json:"servedFrom"`
	Type         int32   `json:"type"`
	Revision     int64   `json:"revision"`
	Expires      hlc     `json:"expires"`
	LastModified hlc     `json:"lastModified"`
	Route        *hint   `json:"route"`
}

func keyRoutes() []route {
	return []route{
		post("/v1/kv/try-set", keyMustRetry, setKey),
		post("/v1/kv/try-extend", keyMustRetry, extendKey),
		post("/v1/kv/try-delete", keyMustRetry, deleteKey),
		post("/v1/kv/try-get", keyMustRetry, getKey),
		post("/v1/kv/try-exists", keyMustRetry, existsKey),
	}
}

func setKey(ctx context.Context, s Service, in *setRequest) (answer, error) {
	a, err := s.TrySetKeyValue(ctx, &pb.GrpcTrySetKeyValueRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), Value: in.Value, CompareValue: in.CompareValue, CompareRevision: int64(in.CompareRevision),
		Flags: pb.GrpcKeyValueFlags(in.Flags), ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(writeResponse{nil, int32(a.GetType()), a.GetRevision(),
		stamp(a.GetLastModifiedNode(), a.GetLastModifiedPhysical(), a.GetLastModifiedCounter()), hintOf(a.GetRoute())})
}

// extendKey refuses 0, which means "no expiry" in gRPC and in scripts (decision 16).
func extendKey(ctx context.Context, s Service, in *extendRequest) (answer, error) {
	if in.ExpiresMs <= 0 {
		return ok(writeResponse{Type: keyInvalidInput})
	}
	a, err := s.TryExtendKeyValue(ctx, &pb.GrpcTryExtendKeyValueRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(writeResponse{nil, int32(a.GetType()), a.GetRevision(),
		stamp(a.GetLastModifiedNode(), a.GetLastModifiedPhysical(), a.GetLastModifiedCounter()), hintOf(a.GetRoute())})
}

func deleteKey(ctx context.Context, s Service, in *deleteRequest) (answer, error) {
	a, err := s.TryDeleteKeyValue(ctx, &pb.GrpcTryDeleteKeyValueRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), Durability: pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(writeResponse{nil, int32(a.GetType()), a.GetRevision(),
		stamp(a.GetLastModifiedNode(), a.GetLastModifiedPhysical(), a.GetLastModifiedCounter()), hintOf(a.GetRoute())})
}

func getKey(ctx context.Context, s Service, in *readRequest) (answer, error) {
	a, err := s.TryGetKeyValue(ctx, &pb.GrpcTryGetKeyValueRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), Revision: int64(in.Revision), Durability: pb.GrpcKeyValueDurability(in.Durability),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(getResponse{servedHere(a.GetType() == pb.GrpcKeyValueResponseType_TYPE_GOT), int32(a.GetType()), a.Value, a.GetRevision(),
		stamp(a.GetExpiresNode(), a.GetExpiresPhysical(), a.GetExpiresCounter()),
		stamp(a.GetLastModifiedNode(), a.GetLastModifiedPhysical(), a.GetLastModifiedCounter()), hintOf(a.GetRoute())})
}

func existsKey(ctx context.Context, s Service, in *readRequest) (answer, error) {
	a, err := s.TryExistsKeyValue(ctx, &pb.GrpcTryExistsKeyValueRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), Revision: int64(in.Revision), Durability: pb.GrpcKeyValueDurability(in.Durability),
		ReadTimestampNode: in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(existsResponse{servedHere(a.GetType() == pb.GrpcKeyValueResponseType_TYPE_EXISTS), int32(a.GetType()), a.GetRevision(),
		stamp(a.GetExpiresNode(), a.GetExpiresPhysical(), a.GetExpiresCounter()),
		stamp(a.GetLastModifiedNode(), a.GetLastModifiedPhysical(), a.GetLastModifiedCounter()), hintOf(a.GetRoute())})
}

// servedHere is servedFrom of an entry that was found: empty, and null without one
// (R24).
func servedHere(found bool) *string {
	if !found {
		return nil
	}
	return new(string)
}
