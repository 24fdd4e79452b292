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
	// MaxInFlight is how many requests of one batch stream are served at a time;
	// then it is not read (decisions.md 53).
	MaxInFlight = 4096
	// MaxScanRows bounds the answer of a bucket or prefix scan (decisions.md 29).
	MaxScanRows = 100_000
)
