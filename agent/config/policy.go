package config

import (
	"fmt"
	"slices"
	"strconv"
)

// policy resolves the names in the rules. A name that is not found is a
// problem: a rule that silently matches nobody would be found out by an outage,
// one that matches a later user of that name by worse.
func (c *checker) policy() {
	for i, rule := range c.f.Policy {
		key := fmt.Sprintf("policy[%d]", i)
		out := Rule{Prefixes: rule.Prefixes}
		out.UIDs = c.ids(key+".users", "user", rule.Users, c.host.LookupUser)
		out.GIDs = c.ids(key+".groups", "group", rule.Groups, c.host.LookupGroup)
		if len(rule.Users)+len(rule.Groups) == 0 {
			c.problem(key, "it names no users and no groups")
		}
		if len(rule.Allow) == 0 {
			c.problem(key+".allow", "it allows nothing; name some of %s", permitText)
		}
		for _, allow := range rule.Allow {
			p := Permission(allow)
			if !slices.Contains([]Permission{Read, Write, Lock, Admin}, p) {
				c.problem(key+".allow", "%q is not %s", allow, permitText)
				continue
			}
			out.Allow = append(out.Allow, p)
		}
		for _, prefix := range rule.Prefixes {
			if prefix == "" {
				c.problem(key+".prefixes", "an empty prefix means every name; leave out prefixes to say so")
			}
		}
		c.cfg.Policy = append(c.cfg.Policy, out)
	}
}

func (c *checker) ids(key, what string, names []string, lookup func(string) (uint32, error)) []uint32 {
	var out []uint32
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			out = append(out, uint32(n))
			continue
		}
		id, err := lookup(name)
		if err != nil {
			c.problem(key, "%s %q: %v; create it, or give its number", what, name, err)
			continue
		}
		out = append(out, id)
	}
	return out
}
