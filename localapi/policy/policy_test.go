package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
)

func TestAllows(t *testing.T) {
	p, err := policy.New([]policy.Rule{
		{UIDs: []uint32{1000}, Prefixes: []string{"jobs/", "tmp/"}, Allow: []policy.Verb{policy.Lock, policy.Read}},
		{GIDs: []uint32{50}, Allow: []policy.Verb{policy.Read}},
		{Units: []string{"backup.service"}, Prefixes: []string{"backup"}, Allow: []policy.Verb{policy.Write}},
		{UIDs: []uint32{2000}, Prefixes: []string{"ops/"}, Allow: []policy.Verb{policy.Admin}},
		{Everyone: true, Prefixes: []string{"public/"}, Allow: []policy.Verb{policy.Read}},
	})
	if err != nil {
		t.Fatal(err)
	}
	user := &caller.Caller{UID: 1000, GID: 1000, Groups: []uint32{1000}}
	member := &caller.Caller{UID: 1001, GID: 1001, Groups: []uint32{1001, 50}}
	primary := &caller.Caller{UID: 1002, GID: 50}
	unit := &caller.Caller{UID: 1003, GID: 1003, Unit: "backup.service"}
	ops := &caller.Caller{UID: 2000, GID: 2000}
	root := &caller.Caller{}
	for _, tc := range []struct {
		name string
		c    *caller.Caller
		verb policy.Verb
		on   string
		want bool
	}{
		{"user in prefix", user, policy.Lock, "jobs/1", true},
		{"second prefix", user, policy.Lock, "tmp/1", true},
		{"outside of the prefix", user, policy.Lock, "job", false},
		{"prefix cut short", user, policy.Read, "jobs", false},
		{"listing the prefix", user, policy.Read, "jobs/", true},
		{"listing everything", user, policy.Read, "", false},
		{"other verb", user, policy.Write, "jobs/1", false},
		{"verb of no rule", user, policy.Verb("fly"), "jobs/1", false},
		{"member of a group", member, policy.Read, "anything", true},
		{"primary group", primary, policy.Read, "anything", true},
		{"member, other verb", member, policy.Lock, "jobs/1", false},
		{"unit", unit, policy.Write, "backup/1", true},
		{"no unit", user, policy.Write, "backup/1", false},
		{"administrator includes all", ops, policy.Sequence, "ops/1", true},
		{"administrator of his prefix only", ops, policy.Admin, "jobs/1", false},
		{"everyone", root, policy.Read, "public/x", true},
		{"root is not named", root, policy.Read, "jobs/1", false},
		{"nobody", nil, policy.Read, "public/x", false},
	} {
		if got := p.Allows(tc.c, tc.verb, tc.on); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	if !p.AllowsSomewhere(user, policy.Lock) || p.AllowsSomewhere(user, policy.Write) || p.AllowsSomewhere(nil, policy.Read) {
		t.Error("AllowsSomewhere")
	}
}

func TestDefault(t *testing.T) {
	gid := uint32(77)
	for _, tc := range []struct {
		name string
		c    caller.Caller
		want bool
	}{
		{"root", caller.Caller{UID: 0, GID: 0}, true},
		{"own user", caller.Caller{UID: 500, GID: 500}, true},
		{"group kahu", caller.Caller{UID: 501, GID: 501, Groups: []uint32{77}}, true},
		{"others", caller.Caller{UID: 501, GID: 501, Groups: []uint32{501}}, false},
		{"root's group", caller.Caller{UID: 501, GID: 0}, false},
	} {
		if got := policy.Default(500, &gid).Allows(&tc.c, policy.Admin, "x"); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	if policy.Default(500, nil).Allows(&caller.Caller{UID: 501, Groups: []uint32{0}}, policy.Read, "x") {
		t.Error("without a group somebody else may read")
	}
}

func TestParse(t *testing.T) {
	look := policy.Lookup{
		User: func(name string) (uint32, error) {
			if name == "alice" {
				return 7, nil
			}
			return 0, errors.New("no such user")
		},
		Group: func(string) (uint32, error) { return 0, errors.New("no such group") },
	}
	p, err := policy.Parse([]policy.Text{{Users: []string{"alice", "1000"}, Groups: []string{"8"}, Allow: []string{"lock"}}}, look)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []caller.Caller{{UID: 7}, {UID: 1000}, {UID: 9, Groups: []uint32{8}}} {
		if !p.Allows(&c, policy.Lock, "x") {
			t.Errorf("%+v is not allowed", c)
		}
	}
	_, err = policy.Parse([]policy.Text{
		{Users: []string{"bob"}, Groups: []string{"wheel", "-1"}, Allow: []string{"lock"}},
		{Allow: []string{"lock"}},
		{Everyone: true},
		{Everyone: true, Allow: []string{"everything"}},
		{Units: []string{"backup"}, Allow: []string{"read"}},
		{Everyone: true, Allow: []string{"read"}, Prefixes: []string{""}},
	}, look)
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{`rule 1: user "bob"`, `group "wheel"`, `group "-1"`, "rule 2: it names nobody", "rule 3: it allows nothing",
		`rule 4: there is no verb "everything"`, `rule 5: unit "backup"`, "rule 6: an empty prefix"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}
