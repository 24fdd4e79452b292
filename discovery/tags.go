package discovery

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Roles that an agent announces.
const (
	RoleVoter   = "voter"   // has a vote, or is configured to
	RoleStandby = "standby" // may be given a vote
	RoleProxy   = "proxy"   // never has one
)

// Self is what an agent tells of itself.
type Self struct {
	Name    string // of the host, for people
	Address string // host:port at which others reach it
	Role    string // one of the roles
	Version string
	Zone    string   // where voters are spread over; may be empty
	KeyIDs  []string // of the secrets it accepts, the one in use first
}

// Member is an agent that was heard of.
type Member struct {
	Node string
	Self
	Alive bool // as far as gossip knows
}

// Lengths of what is told, in bytes. All of a member's tags fit memberlist's 512.
const (
	maxNodeBytes    = 128
	maxNameBytes    = 64
	maxVersionBytes = 32
	maxZoneBytes    = 48
	maxAddressBytes = 262 // a DNS name and a port
	maxKeyIDs       = 4
	maxKeyIDBytes   = 8
)

// Names of the tags. They are part of the protocol.
const (
	tagName    = "name"
	tagAddress = "addr"
	tagRole    = "role"
	tagVersion = "ver"
	tagZone    = "zone"
	tagKeys    = "keys"
	tagCluster = "cl"
)

// check refuses what others would not understand as it is meant. Texts for people
// may be cut short; an address may not: the rest of one is another one.
func (s Self) check(node, cluster string) error {
	if err := CheckAddress(s.Address); err != nil {
		return err
	}
	_, err := parseMember(node, s.tags(cluster))
	return err
}

// tags encodes what is told of one that passed check. The cluster's id is there for those who look at
// serf's members with other tools: what keeps clusters apart is the label.
func (s Self) tags(cluster string) map[string]string {
	keys := make([]string, 0, maxKeyIDs)
	for _, id := range s.KeyIDs[:min(len(s.KeyIDs), maxKeyIDs)] {
		keys = append(keys, cut(id, maxKeyIDBytes))
	}
	address := s.Address
	if len(address) > maxAddressBytes {
		address = "" // which nobody understands; see check
	}
	return map[string]string{
		tagName:    cut(s.Name, maxNameBytes),
		tagAddress: address,
		tagRole:    s.Role,
		tagVersion: cut(s.Version, maxVersionBytes),
		tagZone:    cut(s.Zone, maxZoneBytes),
		tagKeys:    strings.Join(keys, ","),
		tagCluster: cut(cluster, 8),
	}
}

// cut shortens a text to at most n bytes without cutting a character in two.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// parseMember reads what another agent tells. Whoever has a secret can tell
// anything: what is not well-formed is an error, and lengths are bounded.
func parseMember(node string, tags map[string]string) (Member, error) {
	m := Member{Node: node, Self: Self{
		Name: tags[tagName], Address: tags[tagAddress], Role: tags[tagRole], Version: tags[tagVersion], Zone: tags[tagZone],
	}}
	if node == "" || len(node) > maxNodeBytes || !plain(node) {
		return Member{}, fmt.Errorf("a member's node id is %.140q", node)
	}
	if err := CheckAddress(m.Address); err != nil {
		return Member{}, fmt.Errorf("member %s: %w", node, err)
	}
	if !slices.Contains([]string{RoleVoter, RoleStandby, RoleProxy}, m.Role) {
		return Member{}, fmt.Errorf("member %s has the role %.40q", node, m.Role)
	}
	for _, text := range []struct {
		what, value string
		most        int
	}{{"name", m.Name, maxNameBytes}, {"version", m.Version, maxVersionBytes}, {"zone", m.Zone, maxZoneBytes}} {
		if len(text.value) > text.most || !plain(text.value) {
			return Member{}, fmt.Errorf("member %s has the %s %.80q", node, text.what, text.value)
		}
	}
	if ids := tags[tagKeys]; ids != "" {
		m.KeyIDs = strings.Split(ids, ",")
		if len(m.KeyIDs) > maxKeyIDs || len(ids) > maxKeyIDs*(maxKeyIDBytes+1) || !plain(ids) {
			return Member{}, fmt.Errorf("member %s has the key ids %.80q", node, ids)
		}
	}
	return m, nil
}

// plain reports whether a text can be shown to people as it is.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// CheckAddress refuses what is no host:port that an agent can be reached at.
func CheckAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || len(a) > maxAddressBytes || !plain(a) || strings.ContainsAny(host, " /@\\") {
		return fmt.Errorf("%.80q is not HOST:PORT", a)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%.80q has no port between 1 and 65535", a)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("%.80q means every address", a)
	}
	return nil
}
