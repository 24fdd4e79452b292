package wire

// LeaseAcquire is the body of an acquire from a limit on how many do something at
// the same time.
type LeaseAcquire struct {
	Owner   string `json:"owner"`             // the lease's id: 1 to 256 bytes without a slash
	Limit   int64  `json:"limit"`             // permits that all owners together may hold
	Permits *int64 `json:"permits,omitempty"` // absent: 1
	Lease   string `json:"lease"`             // "30s": ends by itself so long from now
	// Durability of the lease: ephemeral (default) or persistent.
	Durability Durability `json:"durability,omitempty"`
}

// LeaseRenew is the body of a renewal: the lease lasts so long from now.
type LeaseRenew struct {
	Owner      string     `json:"owner"`
	Lease      string     `json:"lease"`
	Durability Durability `json:"durability,omitempty"`
}

// LeaseRelease is the body of a release.
type LeaseRelease struct {
	Owner      string     `json:"owner"`
	Durability Durability `json:"durability,omitempty"`
}

// LeaseRequest is one of the three on the stream.
type LeaseRequest struct {
	Name    string        `json:"name"`
	Acquire *LeaseAcquire `json:"acquire,omitempty"`
	Renew   *LeaseRenew   `json:"renew,omitempty"`
	Release *LeaseRelease `json:"release,omitempty"`
}

// LimitLease answers an acquire.
type LimitLease struct {
	Limit   string `json:"limit"`
	Owner   string `json:"owner"`
	Granted bool   `json:"granted"`
	Held    int64  `json:"held"` // permits held: by all when granted, by others when refused
	Left    int64  `json:"left"` // permits left when granted
	// LeaseMS is how long the lease lasts, when granted.
	LeaseMS int64 `json:"lease_ms"`
	// RetryAfterMS is when the next lease ends by itself, when refused; 0: unknown.
	RetryAfterMS int64 `json:"retry_after_ms"`
}

// LeaseRenewed answers a renewal.
type LeaseRenewed struct {
	Limit   string `json:"limit"`
	Owner   string `json:"owner"`
	LeaseMS int64  `json:"lease_ms"`
}

// LeaseReleased answers a release.
type LeaseReleased struct {
	Limit string `json:"limit"`
	Owner string `json:"owner"`
}
