// Package policy decides what a caller may do to a name.
//
// It promises that what no rule allows is refused, and that a decision depends
// on nothing but the rules, the caller and the name. The main type is Policy.
// Who the caller is, package caller says; which request needs which verb,
// package localapi.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/kahu-sh/kahu/localapi/caller"
)

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

// Verbs are all of them.
func Verbs() []Verb { return []Verb{Read, Write, Lock, Sequence, Admin} }

// Rule allows callers who match any of its subjects the verbs in Allow on names
// that begin with any of Prefixes. Users, groups, units and Everyone are
// processes on this host; the other subjects come through a TCP listener. None
// of the first is ever one of the others.
type Rule struct {
	UIDs     []uint32
	GIDs     []uint32 // primary and supplementary groups count
	Units    []string // systemd units of the system, "backup.service"; Linux 6.5 and later tell them
	Everyone bool     // every process that can connect to the socket
	// Certificates are common names, DNS names or URIs of client certificates;
	// Tokens are names of bearer tokens. "*" is every one that is valid.
	Certificates []string
	Tokens       []string
	// Anonymous is whoever reaches a listener that asks for neither.
	Anonymous bool
	Prefixes  []string // none: every name
	Allow     []Verb
}

// Policy is a set of rules. It is safe for concurrent use; nothing but Replace
// changes it.
type Policy struct {
	rules  atomic.Pointer[[]Rule] // never nil
	tokens Tokens                 // nil: no token is valid
}

func withRules(rules []Rule, t Tokens) *Policy {
	p := &Policy{tokens: t}
	p.rules.Store(&rules)
	return p
}

func (p *Policy) list() []Rule { return *p.rules.Load() }

// Replace gives p the rules of another Policy, for decisions from here on, also
// about callers who are connected already. Which tokens are valid stays.
func (p *Policy) Replace(with *Policy) { p.rules.Store(with.rules.Load()) }

// Tokens knows the bearer tokens that are valid now. It is called for each
// decision about one and must answer from memory.
type Tokens interface {
	// Grants returns what the token with that id may do besides what the rules
	// say, nil for nothing, and whether it is still valid: one that was revoked is
	// allowed nothing from then on, also on streams that it opened before.
	Grants(id string) (own *Policy, valid bool)
}

// WithTokens returns a Policy with the rules of p for which those tokens are valid.
func (p *Policy) WithTokens(t Tokens) *Policy { return withRules(p.list(), t) }

// New checks the rules and returns the Policy, or an error that names every
// rule that is wrong, counted from 1.
func New(rules []Rule) (*Policy, error) {
	var problems []error
	for i, r := range rules {
		bad := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("policy rule %d: %s", i+1, fmt.Sprintf(format, args...)))
		}
		if len(r.UIDs)+len(r.GIDs)+len(r.Units)+len(r.Certificates)+len(r.Tokens) == 0 && !r.Everyone && !r.Anonymous {
			bad("it names nobody: give a user, a group, a unit, a certificate, a token, everyone or anonymous")
		}
		if slices.Contains(r.Certificates, "") || slices.Contains(r.Tokens, "") {
			bad("the name of a certificate or token cannot be empty")
		}
		if len(r.Allow) == 0 {
			bad("it allows nothing")
		}
		for _, v := range r.Allow {
			if !slices.Contains(Verbs(), v) {
				bad("there is no verb %q, only read, write, lock, sequence and admin", v)
			}
		}
		for _, u := range r.Units {
			if !strings.HasSuffix(u, ".service") && !strings.HasSuffix(u, ".scope") {
				bad("unit %q must end in .service or .scope", u)
			}
		}
		if slices.Contains(r.Prefixes, "") {
			bad("an empty prefix means every name: leave the prefixes out")
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return withRules(slices.Clone(rules), nil), nil
}

// Default lets the agent's own user, root and the members of gid (group kahu;
// nil when there is none) do everything, and nobody else anything.
func Default(uid uint32, gid *uint32) *Policy {
	r := Rule{UIDs: []uint32{0, uid}, Allow: []Verb{Admin}}
	if gid != nil {
		r.GIDs = []uint32{*gid}
	}
	return withRules([]Rule{r}, nil)
}

// And returns a Policy that allows what p allows and what the rules do. The
// error is as New's.
func (p *Policy) And(rules ...Rule) (*Policy, error) {
	more, err := New(rules)
	if err != nil {
		return nil, err
	}
	return withRules(slices.Concat(p.list(), more.list()), p.tokens), nil
}

// NamesUnits reports whether a rule is for a systemd unit.
func (p *Policy) NamesUnits() bool {
	return slices.ContainsFunc(p.list(), func(r Rule) bool { return len(r.Units) > 0 })
}

// NamesRemote reports whether a rule is for callers of that kind, which come
// from the network.
func (p *Policy) NamesRemote(kind caller.Kind) bool {
	return slices.ContainsFunc(p.list(), func(r Rule) bool {
		switch kind {
		case caller.Certificate:
			return len(r.Certificates) > 0
		case caller.Token:
			return len(r.Tokens) > 0
		case caller.Anonymous:
			return r.Anonymous
		}
		return false
	})
}

// Allows reports whether c may do verb to name. For a list, name is the prefix
// listed: a rule for "a/" allows to list "a/b" and not "a". A nil caller may
// nothing.
func (p *Policy) Allows(c *caller.Caller, verb Verb, name string) bool {
	own, ok := p.grants(c)
	if !ok {
		return false
	}
	if own != nil && own.allows(c, verb, name) {
		return true
	}
	return p.allows(c, verb, name)
}

// grants is what c's token allows by itself; ok is false when it is not valid.
func (p *Policy) grants(c *caller.Caller) (own *Policy, ok bool) {
	if c == nil || c.Kind != caller.Token {
		return nil, true
	}
	if p.tokens == nil {
		return nil, false
	}
	return p.tokens.Grants(c.TokenID)
}

func (p *Policy) allows(c *caller.Caller, verb Verb, name string) bool {
	rules := p.list()
	for i := range rules {
		if r := &rules[i]; r.allows(verb) && r.covers(name) && r.matches(c) {
			return true
		}
	}
	return false
}

// AllowsSomewhere reports whether there is a name to which c may do verb.
func (p *Policy) AllowsSomewhere(c *caller.Caller, verb Verb) bool {
	own, ok := p.grants(c)
	if !ok {
		return false
	}
	return own != nil && own.allowsSomewhere(c, verb) || p.allowsSomewhere(c, verb)
}

func (p *Policy) allowsSomewhere(c *caller.Caller, verb Verb) bool {
	rules := p.list()
	for i := range rules {
		if r := &rules[i]; r.allows(verb) && r.matches(c) {
			return true
		}
	}
	return false
}

func (r *Rule) allows(verb Verb) bool {
	return slices.Contains(r.Allow, verb) || slices.Contains(r.Allow, Admin)
}

func (r *Rule) covers(name string) bool {
	if len(r.Prefixes) == 0 {
		return true
	}
	for _, prefix := range r.Prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (r *Rule) matches(c *caller.Caller) bool {
	if c == nil {
		return false
	}
	switch c.Kind {
	case caller.Process:
	case caller.Certificate:
		return named(r.Certificates, c.Names)
	case caller.Token:
		return named(r.Tokens, c.Names)
	case caller.Anonymous:
		return r.Anonymous
	default:
		return false
	}
	if r.Everyone || slices.Contains(r.UIDs, c.UID) {
		return true
	}
	if c.Unit != "" && slices.Contains(r.Units, c.Unit) {
		return true
	}
	return slices.ContainsFunc(r.GIDs, c.InGroup)
}

// named: one of the names is among the subjects.
func named(subjects, names []string) bool {
	return slices.ContainsFunc(subjects, func(s string) bool { return s == "*" || slices.Contains(names, s) })
}
