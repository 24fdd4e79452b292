package policy

import (
	"errors"
	"fmt"
	"strconv"
)

// Text is a rule as it is written in a file: users and groups by name or
// number.
type Text struct {
	Users    []string
	Groups   []string
	Units    []string
	Everyone bool

	Certificates []string
	Tokens       []string
	Anonymous    bool

	Prefixes []string
	Allow    []string
}

// Lookup turns names into ids, once, when the policy is loaded.
type Lookup struct {
	User  func(name string) (uid uint32, err error)
	Group func(name string) (gid uint32, err error)
}

// Parse resolves names and checks the rules. The error names every problem: a
// name that cannot be resolved is one, since ignoring it could open or close
// more than was meant.
func Parse(texts []Text, look Lookup) (*Policy, error) {
	var problems []error
	rules := make([]Rule, 0, len(texts))
	for i, t := range texts {
		r := Rule{Units: t.Units, Everyone: t.Everyone, Certificates: t.Certificates, Tokens: t.Tokens,
			Anonymous: t.Anonymous, Prefixes: t.Prefixes}
		for _, v := range t.Allow {
			r.Allow = append(r.Allow, Verb(v))
		}
		var err1, err2 error
		r.UIDs, err1 = resolve("user", t.Users, look.User)
		r.GIDs, err2 = resolve("group", t.Groups, look.Group)
		if err := errors.Join(err1, err2); err != nil {
			problems = append(problems, fmt.Errorf("policy rule %d: %w", i+1, err))
			r.Everyone = true // New need not say as well that it names nobody
		}
		rules = append(rules, r)
	}
	p, err := New(rules)
	if err = errors.Join(append(problems, err)...); err != nil {
		return nil, err
	}
	return p, nil
}

func resolve(what string, names []string, look func(string) (uint32, error)) ([]uint32, error) {
	var ids []uint32
	var problems []error
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 32)
		if err == nil {
			ids = append(ids, uint32(id))
			continue
		}
		found, err := look(name)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s %q: %w; a number always works", what, name, err))
			continue
		}
		ids = append(ids, found)
	}
	return ids, errors.Join(problems...)
}
