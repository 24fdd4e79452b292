package policy_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// valid says of every token that it is valid, and may nothing by itself.
type valid struct{}

func (valid) Grants(string) (*policy.Policy, bool) { return nil, true }

// No kind of caller passes for another, and root's rule is not for the network.
func TestRemoteCallers(t *testing.T) {
	rule := func(r policy.Rule) *policy.Policy {
		r.Allow = []policy.Verb{policy.Read}
		p, err := policy.New([]policy.Rule{r})
		if err != nil {
			t.Fatal(err)
		}
		return p.WithTokens(valid{})
	}
	spiffe, err := url.Parse("spiffe://example.org/app")
	if err != nil {
		t.Fatal(err)
	}
	cert := caller.OfCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "app"}, DNSNames: []string{"app.example.org"}, URIs: []*url.URL{spiffe}}, "192.0.2.1:1")
	callers := map[string]*caller.Caller{"process": {UID: 0, GID: 0, Unit: "app"}, "certificate": cert,
		"token": caller.OfToken("app", "0123456789abcdef", "192.0.2.1:1"), "anonymous": caller.OfNobody("192.0.2.1:1"),
		"unheard of": {Kind: 99, Names: []string{"app"}}, "nameless": caller.OfCertificate(&x509.Certificate{}, "")}
	for _, tc := range []struct {
		rule policy.Rule
		want string // who may
	}{
		{policy.Rule{UIDs: []uint32{0}}, "process"},
		{policy.Rule{GIDs: []uint32{0}}, "process"},
		{policy.Rule{Everyone: true}, "process"},
		{policy.Rule{UIDs: []uint32{caller.NoID}, GIDs: []uint32{caller.NoID}}, ""},
		{policy.Rule{Certificates: []string{"app"}}, "certificate"},
		{policy.Rule{Certificates: []string{"app.example.org"}}, "certificate"},
		{policy.Rule{Certificates: []string{"spiffe://example.org/app"}}, "certificate"},
		{policy.Rule{Certificates: []string{"app.example"}}, ""},
		{policy.Rule{Tokens: []string{"app"}}, "token"},
		{policy.Rule{Tokens: []string{"*"}}, "token"},
		{policy.Rule{Tokens: []string{"other"}}, ""},
		{policy.Rule{Anonymous: true}, "anonymous"},
	} {
		p := rule(tc.rule)
		for name, c := range callers {
			if got := p.Allows(c, policy.Read, "x"); got != (name == tc.want) || got != p.AllowsSomewhere(c, policy.Read) {
				t.Errorf("%+v: %s may: %v", tc.rule, name, got)
			}
		}
	}
	all := rule(policy.Rule{Certificates: []string{"*"}})
	if !all.Allows(cert, policy.Read, "x") || !all.Allows(callers["nameless"], policy.Read, "x") || all.Allows(cert, policy.Write, "x") {
		t.Error("every certificate may read, and nothing else")
	}
	more, err := rule(policy.Rule{Everyone: true}).And(policy.Rule{Anonymous: true, Allow: []policy.Verb{policy.Write}})
	if err != nil {
		t.Fatal(err)
	}
	if !more.NamesRemote(caller.Anonymous) || more.NamesRemote(caller.Certificate) || more.NamesRemote(caller.Process) ||
		!more.Allows(callers["anonymous"], policy.Write, "x") || more.Allows(callers["anonymous"], policy.Read, "x") || !more.Allows(callers["process"], policy.Read, "x") {
		t.Error("And lost a rule, or gave one away")
	}
	for _, bad := range []policy.Rule{{Certificates: []string{""}}, {Tokens: []string{""}}} {
		bad.Allow = []policy.Verb{policy.Read}
		if _, err := policy.New([]policy.Rule{bad}); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
