// Package policy decides what a caller may do to a name.
//
// It promises that what no rule allows is refused, and that a decision depends
// on nothing but the rules, the caller and the name. The main type is Policy.
// Who the caller is, package caller says; which request needs which verb,
// package localapi.
package policy

import "github.com/kahu-sh/kahu/localapi/caller"

// Verb is what a rule can allow.
type Verb string

// The verbs. Admin includes all others.
const (
	Read     Verb = "read"     // look at anything
	Write    Verb = "write"    // change keys
	Lock     Verb = "lock"     // take, extend and give back locks
	Sequence Verb = "sequence" // make, change and draw from sequences
	Admin    Verb = "admin"    // everything, and break locks of others
)

// Rule allows callers who match any of UIDs, GIDs and Units the verbs in Allow
// on names that begin with any of Prefixes. A rule without callers is an error.
type Rule struct {
	UIDs     []uint32
	GIDs     []uint32
	Units    []string // systemd units, "backup.service"
	Everyone bool
	Prefixes []string // empty: every name
	Allow    []Verb
}

// Policy is a set of rules, immutable.
type Policy struct{ rules []Rule }

// New checks the rules and returns the Policy.
func New(rules []Rule) (*Policy, error) { return &Policy{rules: rules}, nil }

// Allows reports whether c may do verb to name.
func (p *Policy) Allows(c *caller.Caller, verb Verb, name string) bool { return false }
