package wire

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication"
)

// StreamPath is upgraded (HTTP/1.1 Upgrade: UpgradeProtocol) to the multiplexed
// stream of package replication/stream.
const (
	StreamPath      = holdwire.StreamPath
	UpgradeProtocol = holdwire.UpgradeProtocol
)

// Methods of the stream.
const (
	// MethodDo is a call: DoRequest up, replication.Answer down. A refusal by the
	// quorum is an Answer with its code. What did not get that far fails with
	// Kind.Number and a line of text.
	MethodDo uint8 = 1
	// MethodHold is a stream: HoldRequest up, then HoldOpened and HoldEvents down
	// and HoldMessages up, all in JSON. The end of the stream or connection is
	// Hold.Disconnect.
	MethodHold = holdwire.MethodHold
	// MethodStatus is a call: empty up, Status in JSON down.
	MethodStatus uint8 = 3
	// MethodHolds is a call: empty up, Holds in JSON down.
	MethodHolds uint8 = 4
	// MethodLimit is a call: LimitRequest up, LimitTaken down, both in JSON.
	MethodLimit uint8 = 5
	// MethodLease is a call: LeaseRequest up; LimitLease, LeaseRenewed or
	// LeaseReleased down, all in JSON.
	MethodLease uint8 = 6
)

// DoRequest is the payload of MethodDo: how long the caller waits, and a
// Request.
//
//	0            4
//	+------------+---------------------+
//	| timeout ms | replication.Request |   big-endian; 0: the agent's default
//	+------------+---------------------+
type DoRequest struct {
	Timeout time.Duration
	Request *replication.Request
}

// SizeVT implements stream.Message.
func (d *DoRequest) SizeVT() int { return 4 + d.Request.SizeVT() }

// MarshalToSizedBufferVT implements stream.Message.
func (d *DoRequest) MarshalToSizedBufferVT(b []byte) (int, error) {
	n, err := d.Request.MarshalToSizedBufferVT(b)
	if err != nil {
		return 0, err
	}
	ms := min(max(d.Timeout.Milliseconds(), 0), 1<<32-1)
	if ms == 0 && d.Timeout > 0 {
		ms = 1
	}
	binary.BigEndian.PutUint32(b[len(b)-n-4:], uint32(ms))
	return n + 4, nil
}

// DoTimeout reads only how long the caller of a DoRequest waits; 0 when it does
// not say, or b is too short to be one.
func DoTimeout(b []byte) time.Duration {
	if len(b) < 4 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond
}

// UnmarshalDo reads a DoRequest. The Request keeps parts of b.
func (d *DoRequest) UnmarshalDo(b []byte) error {
	if len(b) < 4 {
		return errors.New("the request is too short")
	}
	d.Timeout = DoTimeout(b)
	d.Request = &replication.Request{}
	return d.Request.UnmarshalVTUnsafe(b[4:])
}
