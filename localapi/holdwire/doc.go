// Package holdwire is the part of kahu's own API that a hold needs: its messages,
// the kinds of refusals, and the way to the stream.
//
// It promises what package wire promises, of which it is a part: wire has all of
// it under the same names. It is apart because it imports almost nothing: each
// waiting kahu exec is a process, and what its packages set up at their start is
// paid in milliseconds and memory for each command that is guarded.
package holdwire

import (
	"fmt"
	"strings"
	"time"
)

// Durability is wire.Durability.
type Durability string

// The two tables. An empty Durability in a request means Persistent.
const (
	Persistent Durability = "persistent"
	Ephemeral  Durability = "ephemeral"
)

// StreamPath is upgraded (HTTP/1.1 Upgrade: UpgradeProtocol) to the multiplexed
// stream of package replication/stream.
const (
	StreamPath      = "/kahu/v1/stream"
	UpgradeProtocol = "kahu-stream/1"
)

// MethodHold is a stream: HoldRequest up, then HoldOpened and HoldEvents down
// and HoldMessages up, all in JSON. The end of the stream or connection is
// Hold.Disconnect.
const MethodHold uint8 = 2

// MaxJSONBytes bounds a JSON body.
const MaxJSONBytes = 64 << 10

// DefaultHoldTTL is the lease length of a hold that names none.
const DefaultHoldTTL = 30 * time.Second

// Forever is the word for a wait or an expiry without an end.
const Forever = "forever"

// Unlock is the body of an unlock.
type Unlock struct {
	Owner      string     `json:"owner"`
	Durability Durability `json:"durability,omitempty"`
}

// UnlockPath is where a lock is unlocked, by POST.
func UnlockPath(lock string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
	path := []byte("/kahu/v1/locks/")
	for _, c := range []byte(lock) { // as url.PathEscape, without package net/url
		if strings.IndexByte(plain, c) >= 0 {
			path = append(path, c)
			continue
		}
		path = fmt.Appendf(path, "%%%02X", c)
	}
	return string(path) + "/unlock"
}
