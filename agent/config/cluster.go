package config

import (
	"strings"
	"unicode"

	"github.com/kahu-sh/kahu/discovery/cloud"
)

const (
	defaultVoters = 3
	maxZoneBytes  = 48
)

// cluster checks the combinations of role, join and bootstrap-expect that
// cannot work.
func (c *checker) cluster() {
	c.quorum()
	expect, joins := c.f.BootstrapExpect, len(c.cfg.Join)+len(c.cfg.JoinClouds) > 0
	switch {
	case expect < 0 || expect > maxVoters:
		c.problem("bootstrap-expect", "%d is not between 0 and %d voters", expect, maxVoters)
		return
	case c.cfg.Role == Proxy:
		if expect > 0 {
			c.problem("bootstrap-expect", "a proxy never forms a cluster; leave it out, or set role to voter")
		}
		if !joins && len(c.f.Join) == 0 && len(c.f.Upstream) == 0 {
			c.problem("join", "a proxy asks the voters; name at least one of them")
		}
		return
	case expect > 1 && !joins && len(c.f.Join) == 0:
		c.problem("join", "%d voters are to form a cluster; name the others", expect)
	case expect == 1 && joins:
		c.problem("bootstrap-expect", "1 forms a cluster alone, and join enters another; set the number of voters, or leave out one of the two")
	case expect > 0 && expect%2 == 0:
		c.warn("bootstrap-expect %d: an even number of voters survives no more failures than %d", expect, expect-1)
	}
	if expect == 0 && len(c.f.Join) == 0 {
		expect = 1
	}
	c.cfg.BootstrapExpect = expect
}

// secretCredential is the systemd credential that holds the cluster secret
// (LoadCredential= in kahu.service, systemd.exec(5)): a file that root provides
// and only the service sees.
const secretCredential = "kahu-secret"

// credentialStore is where systemd finds credentials (systemd.exec(5)).
const credentialStore = "/etc/credstore"

// systemDataDir is the data directory of a host's one agent.
const systemDataDir = "/var/lib/kahu"

// quorum checks how many voters are kept, and where.
func (c *checker) quorum() {
	if c.f.Voters != 3 && c.f.Voters != 5 {
		c.problem("voters", "%d is neither 3 nor 5", c.f.Voters)
	}
	c.cfg.Voters = c.f.Voters
	if len(c.f.Zone) > maxZoneBytes || strings.ContainsFunc(c.f.Zone, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }) {
		c.problem("zone", "%.60q is longer than %d bytes, or has spaces or control characters", c.f.Zone, maxZoneBytes)
	}
	c.cfg.Zone = c.f.Zone
}

// joinCloud takes an entry of join that is a cloud's list, and reports whether
// it was one.
func (c *checker) joinCloud(text string) bool {
	if !strings.Contains(text, "=") {
		return false
	}
	if _, err := cloud.Parse(text); err != nil {
		c.problem("join", "%q: %v", text, err)
		return true
	}
	c.cfg.JoinClouds = append(c.cfg.JoinClouds, text)
	return true
}
