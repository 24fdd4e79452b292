package wire

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/localapi/holdwire"
	"github.com/kahu-sh/kahu/replication"
)

// Limits of kahu's own surface, the socket. Each is refused with a problem that
// names it; the state machine takes more (contract/decisions.md 10).
const (
	// MaxNameBytes bounds keys, names of locks and sequences, and prefixes.
	MaxNameBytes = replication.MaxOwnNameBytes
	// MaxTTL is the longest lease or expiry.
	MaxTTL = holdwire.MaxTTL
	// MinTTL is the shortest: the service counts in milliseconds.
	MinTTL = holdwire.MinTTL
	// MaxOwnerBytes bounds the owner of a lock.
	MaxOwnerBytes = 256
	// MaxTextBytes is where commands and reasons are cut.
	MaxTextBytes = 256
	// MaxJSONBytes bounds a JSON body.
	MaxJSONBytes = holdwire.MaxJSONBytes
	// MaxItems bounds the keys of one request.
	MaxItems = 1000
	// MaxWaitersShown bounds the queue in an inspected lock.
	MaxWaitersShown = 100
	// MaxIdempotencyKeyBytes bounds an idempotency key.
	MaxIdempotencyKeyBytes = 256
)

// DefaultHoldTTL is the lease length of a hold that names none.
const DefaultHoldTTL = holdwire.DefaultHoldTTL

// Forever is the word for a wait or an expiry without an end.
const Forever = holdwire.Forever

// NoKey is the detail of NotFound for a key, or for a revision of it that was
// asked for.
func NoKey(revision *int64) string {
	if revision != nil {
		return fmt.Sprintf("there is no revision %d of this key, or it is kept no longer", *revision)
	}
	return "there is no such key"
}

// CheckName refuses a name of kahu's own surface that is empty, longer than
// MaxNameBytes, not UTF-8, or has control characters. what names it: "key".
func CheckName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s is empty", what)
	}
	return CheckPrefix(what, name)
}

// CheckPrefix is CheckName for what may be empty.
func CheckPrefix(what, name string) error {
	if len(name) > MaxNameBytes {
		return fmt.Errorf("the %s has %d bytes, and the limit is %d", what, len(name), MaxNameBytes)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("the %s is not valid UTF-8", what)
	}
	if i := strings.IndexFunc(name, unicode.IsControl); i >= 0 {
		return fmt.Errorf("the %s has a control character at byte %d", what, i)
	}
	return nil
}

// CheckStoredName is for inspecting and breaking: what is stored may have been
// named by others, under the limits of the state machine.
func CheckStoredName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the %s is empty", what)
	case len(name) > replication.MaxNameBytes:
		return fmt.Errorf("the %s has %d bytes, and the limit is %d", what, len(name), replication.MaxNameBytes)
	case !utf8.ValidString(name):
		return fmt.Errorf("the %s is not valid UTF-8", what)
	}
	return nil
}

// CheckOwner refuses an owner that is empty or longer than MaxOwnerBytes.
func CheckOwner(owner []byte) error {
	if len(owner) == 0 {
		return fmt.Errorf("the owner is empty")
	}
	if len(owner) > MaxOwnerBytes {
		return fmt.Errorf("the owner has %d bytes, and the limit is %d", len(owner), MaxOwnerBytes)
	}
	return nil
}

// CheckTTL refuses a TTL that is not above zero and at most MaxTTL. Fractions of
// a millisecond are dropped by the service.
func CheckTTL(ttl time.Duration) error { return holdwire.CheckTTL(ttl) }

// ParseTTL reads a TTL such as "30s" or "1h30m".
func ParseTTL(text string) (time.Duration, error) { return holdwire.ParseTTL(text) }

// parseLength is ParseTTL for a length of time that is called otherwise.
func parseLength(what, text string) (time.Duration, error) {
	d, err := ParseTTL(text)
	if err != nil {
		return 0, Refuse(Invalid, fmt.Sprintf("the %s is a length of time such as 30s, above zero and at most %s, and not %.64q", what, MaxTTL, text))
	}
	return d, nil
}

// ParseWait reads how long to stand in line: a duration of zero or more, or
// "forever", which is negative.
func ParseWait(text string) (time.Duration, error) { return holdwire.ParseWait(text) }

// ParseGrace reads a grace: a duration of zero or more, at most MaxTTL.
func ParseGrace(text string) (time.Duration, error) { return holdwire.ParseGrace(text) }

// ParseDurability reads a table's name; empty means Persistent.
func ParseDurability(text string) (Durability, error) {
	switch d := Durability(text); d {
	case "":
		return Persistent, nil
	case Persistent, Ephemeral:
		return d, nil
	default:
		return "", fmt.Errorf("the durability %q must be %s or %s", text, Persistent, Ephemeral)
	}
}

// Text makes a command or a reason presentable: valid UTF-8 on one line, cut at
// MaxTextBytes.
func Text(s string) string {
	clean := func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}
	s = strings.Map(clean, strings.ToValidUTF8(s[:min(len(s), 4*MaxTextBytes)], "?"))
	if len(s) <= MaxTextBytes {
		return s
	}
	cut := MaxTextBytes
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
