package discovery_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"github.com/kahu-sh/kahu/discovery"
)

// What an agent tells, the others understand, however long its names are, and
// it fits what memberlist carries.
func FuzzTagsRoundTrip(f *testing.F) {
	f.Add("host", "10.0.0.1:7350", "v1.2.3", "eu-1", "aabbccdd")
	f.Add(strings.Repeat("ä", 300), strings.Repeat("a", 255)+":65535", strings.Repeat("v", 99), strings.Repeat("z", 99), "")
	f.Fuzz(func(t *testing.T, name, address, version, zone, key string) {
		s := discovery.Self{Name: name, Address: address, Role: discovery.RoleProxy, Version: version, Zone: zone, KeyIDs: []string{key, key}}
		tags := s.Tags("0123456789abcdef0123456789abcdef")
		size := 0
		for k, v := range tags {
			size += len(k) + len(v) + 6 // msgpack's own
		}
		if size+4 > memberlist.MetaMaxSize {
			t.Fatalf("tags of %d bytes do not fit", size)
		}
		m, err := discovery.ParseMember("n", tags)
		if err != nil {
			return // Start refuses it
		}
		if !strings.HasPrefix(name, m.Name) || m.Address != address || !utf8.ValidString(m.Name) {
			t.Fatalf("told %+v, understood %+v", s, m)
		}
	})
}

func FuzzParseMember(f *testing.F) {
	f.Add("n1", "host", "10.0.0.1:7350", "voter", "v1", "z", "aa,bb")
	f.Add("", "\x00", "::", "", "\n", "\xff", ",,,,,")
	f.Fuzz(func(t *testing.T, node, name, address, role, version, zone, keys string) {
		m, err := discovery.ParseMember(node, map[string]string{"name": name, "addr": address, "role": role, "ver": version, "zone": zone, "keys": keys})
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000 {
				t.Fatalf("the error cannot be shown: %q", err)
			}
			return
		}
		for _, s := range append([]string{m.Node, m.Name, m.Address, m.Role, m.Version, m.Zone}, m.KeyIDs...) {
			if len(s) > 300 || strings.ContainsAny(s, "\n\x1b\x00") || !utf8.ValidString(s) {
				t.Fatalf("accepted %q", s)
			}
		}
		if discovery.CheckAddress(m.Address) != nil {
			t.Fatalf("accepted address %q", m.Address)
		}
	})
}

func FuzzParsePeers(f *testing.F) {
	f.Add([]byte(`{"format":1,"agents":[{"node":"a","address":"10.0.0.1:7350","seen":1}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Add(bytes.Repeat([]byte("["), 1000))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := discovery.ParsePeers(text)
		if err != nil {
			return
		}
		for _, r := range list {
			if r.Node == "" || discovery.CheckAddress(r.Address) != nil {
				t.Fatalf("accepted %+v", r)
			}
		}
	})
}
