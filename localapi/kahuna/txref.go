package kahuna

import (
	"encoding/binary"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// inTransaction is what every request carries that may be part of a transaction.
type inTransaction interface {
	GetTransactionIdNode() int32
	GetTransactionIdPhysical() int64
	GetTransactionIdCounter() uint32
	GetCoordinatorKey() string
	GetOperationIdHigh() uint64
	GetOperationIdLow() uint64
}

// txRef says which transaction a request belongs to, nil for none. ok is false
// for one that names a transaction without coordinator key or operation id: its
// effect would be invisible to the commit (decisions.md 37).
func txRef(r inTransaction) (tx *replication.TxRef, ok bool) {
	id := stamp(r.GetTransactionIdNode(), r.GetTransactionIdPhysical(), r.GetTransactionIdCounter())
	if id == nil {
		return nil, true
	}
	operation := operationID(r.GetOperationIdHigh(), r.GetOperationIdLow())
	if r.GetCoordinatorKey() == "" || operation == nil {
		return nil, false
	}
	return &replication.TxRef{Id: id, CoordinatorKey: r.GetCoordinatorKey(), Operation: operation}, true
}

// operationID is the 16 bytes of an operation, nil for none.
func operationID(high, low uint64) []byte {
	if high == 0 && low == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, replication.OperationIDBytes), high), low)
}

// txRefMany is txRef for a batch, whose items name the transaction: all the same
// one, or none.
func txRefMany(req *pb.GrpcTryDeleteManyKeyValueRequest) (tx *replication.TxRef, ok bool) {
	for i, r := range req.GetItems() {
		id := stamp(r.GetTransactionIdNode(), r.GetTransactionIdPhysical(), r.GetTransactionIdCounter())
		if i == 0 {
			if id != nil {
				tx = &replication.TxRef{Id: id, CoordinatorKey: req.GetCoordinatorKey(),
					Operation: operationID(req.GetOperationIdHigh(), req.GetOperationIdLow())}
			}
			continue
		}
		if !sameStamp(id, tx.GetId()) {
			return nil, false
		}
	}
	return tx, tx == nil || tx.CoordinatorKey != "" && tx.Operation != nil
}

func sameStamp(a, b *replication.Timestamp) bool {
	return a.GetNode() == b.GetNode() && a.GetPhysicalMs() == b.GetPhysicalMs() && a.GetCounter() == b.GetCounter()
}
