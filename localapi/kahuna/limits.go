package kahuna

import "time"

// Every limit of the Kahuna wire. What Config can change has its default here.
const (
	// DefaultLeaderWait is how long a request waits for a leader (decisions.md 23).
	DefaultLeaderWait = 10 * time.Second
	// DefaultMaxMessageBytes bounds a message from a client, as gRPC does by default.
	DefaultMaxMessageBytes = 4 << 20
	// messageRoomBytes is what a message may have beside one value.
	messageRoomBytes = 3 << 20
	// DefaultMaxInFlight is how many requests of one batch stream are served at a
	// time; then it is not read (decisions.md 53).
	DefaultMaxInFlight = 4096
	// MaxServing is how many requests of all batch streams are served at a time;
	// then none of them is read.
	MaxServing = 1 << 16
	// DefaultMaxStreams is how many batch streams there may be; one more is refused
	// with ResourceExhausted.
	DefaultMaxStreams = 10_000
	// DefaultAnswerBytes bounds the large answers of all batch streams that are not
	// written yet; one that finds no room becomes MustRetry.
	DefaultAnswerBytes = 256 << 20
	// largeAnswerBytes is from where on an answer counts.
	largeAnswerBytes = 4 << 10
	// MaxReads is how many reads of batch streams are carried out at a time: each
	// may come back with a large value.
	MaxReads = 1024
	// DefaultWriteTimeout is how long a client may leave answers unread; then its stream
	// ends with ResourceExhausted.
	DefaultWriteTimeout = 30 * time.Second
	// maxAdmissionWait is Kahuna's bound of the wait for a transaction's slot.
	maxAdmissionWait = 30 * time.Second
	// leaveWait is how long leaving the quorum may take, as in Kahuna.
	leaveWait = 150 * time.Second
	// workerIdle is how long a goroutine waits for another request before it ends.
	workerIdle = 5 * time.Second
	// maxItemsAtOnce is how many items of a batch go into one command.
	maxItemsAtOnce = 1000
	// MaxScanRows bounds the answer of a bucket or prefix scan (decisions.md 29).
	MaxScanRows = 100_000
)
