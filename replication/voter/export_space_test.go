package voter

import "github.com/kahu-sh/kahu/replication"

// NeedsRoom is needsRoom in words.
func NeedsRoom(req *replication.Request) string {
	return [...]string{"none", "lock", "data"}[needsRoom(req)]
}
