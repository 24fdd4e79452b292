package holdwire

import (
	"fmt"
	"time"
)

const (
	// MaxTTL is the longest lease or expiry.
	MaxTTL = 24 * time.Hour
	// MinTTL is the shortest: the service counts in milliseconds.
	MinTTL = time.Millisecond
)

// CheckTTL refuses a TTL that is not above zero and at most MaxTTL. Fractions of
// a millisecond are dropped by the service.
func CheckTTL(ttl time.Duration) error {
	switch {
	case ttl <= 0:
		return fmt.Errorf("the TTL %s must be above zero", ttl)
	case ttl < MinTTL:
		return fmt.Errorf("the TTL %s is below the smallest, %s", ttl, MinTTL)
	case ttl > MaxTTL:
		return fmt.Errorf("the TTL %s is above the largest, %s", ttl, MaxTTL)
	}
	return nil
}

// ParseTTL reads a TTL such as "30s" or "1h30m".
func ParseTTL(text string) (time.Duration, error) {
	ttl, err := parseDuration("TTL", text)
	if err != nil {
		return 0, err
	}
	return ttl, CheckTTL(ttl)
}

// ParseWait reads how long to stand in line: a duration of zero or more, or
// "forever", which is negative.
func ParseWait(text string) (time.Duration, error) {
	if text == Forever {
		return -1, nil
	}
	wait, err := parseDuration("wait", text)
	if err == nil && wait < 0 {
		err = fmt.Errorf("the wait %s must not be negative; %q waits without an end", wait, Forever)
	}
	return wait, err
}

// ParseGrace reads a grace: a duration of zero or more, at most MaxTTL.
func ParseGrace(text string) (time.Duration, error) {
	grace, err := parseDuration("grace", text)
	if err == nil && (grace < 0 || grace > MaxTTL) {
		err = fmt.Errorf("the grace %s must be between 0s and %s", grace, MaxTTL)
	}
	return grace, err
}

func parseDuration(what, text string) (time.Duration, error) {
	if len(text) > 64 {
		return 0, fmt.Errorf("the %s is not a duration such as 30s", what)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("the %s %q is not a duration such as 30s", what, text)
	}
	return d, nil
}
