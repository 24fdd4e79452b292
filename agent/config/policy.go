package config

import (
	"strconv"
	"strings"

	"github.com/kahu-sh/kahu/localapi/policy"
)

// policy resolves the names in the rules. A name that is not found is a
// problem: a rule that silently matches nobody would be found out by an outage,
// one that matches a later user of that name by worse.
func (c *checker) policy() {
	if len(c.f.Policy) == 0 {
		return
	}
	rules := make([]policy.Text, 0, len(c.f.Policy)+1)
	for _, r := range c.f.Policy {
		rules = append(rules, policy.Text(r))
	}
	// Last, so that the numbers in messages are those of the file.
	rules = append(rules, policy.Text{
		Users: []string{"0", strconv.Itoa(c.host.UID)}, Allow: []string{string(policy.Admin)},
	})
	p, err := policy.Parse(rules, policy.Lookup{User: c.host.LookupUser, Group: c.host.LookupGroup})
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			c.problem("policy", "%s", strings.TrimSpace(line))
		}
		return
	}
	c.cfg.Policy = p
}
