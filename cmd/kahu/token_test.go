package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	made := program(t, "", "token", "create", "ci", "--file", file, "--allow", "lock,read", "--prefix", "ci/", "--expires", "1h")
	secret := strings.TrimSpace(made.out)
	if made.code != exitOK || !strings.HasPrefix(secret, "kahu_") || strings.Count(made.out, "\n") != 1 {
		t.Fatalf("create: %+v", made)
	}
	if content, err := os.ReadFile(file); err != nil || strings.Contains(string(content), secret[22:]) {
		t.Errorf("the file has the secret, or %v", err)
	}
	if again := program(t, "", "token", "create", "ci", "--file", file); again.code != exitRefused || !strings.Contains(again.err, "already") {
		t.Errorf("a second of that name: %+v", again)
	}
	var other struct{ Name, ID, Token string }
	if got := program(t, "", "token", "create", "b", "--file", file, "--output", "json"); json.Unmarshal([]byte(got.out), &other) != nil || other.Name != "b" ||
		!strings.HasPrefix(other.Token, "kahu_"+other.ID+"_") {
		t.Errorf("create as JSON: %+v", got)
	}
	list := program(t, "", "token", "list", "--file", file)
	if lines := strings.Split(list.out, "\n"); list.code != exitOK || len(lines) != 4 || !strings.HasPrefix(lines[0], "NAME  ID ") || !strings.Contains(lines[1], "lock,read below ci/") ||
		strings.Contains(lines[1], "never") || !strings.HasPrefix(lines[2], "b     ") || !strings.Contains(lines[2], "never ") || !strings.HasSuffix(lines[2], "  as the policy says") || strings.Contains(list.out, secret[22:]) {
		t.Errorf("list: %+v", list)
	}
	var listed struct{ Tokens []struct{ Name string } }
	if got := program(t, "", "token", "list", "--file", file, "--output", "json"); json.Unmarshal([]byte(got.out), &listed) != nil || len(listed.Tokens) != 2 {
		t.Errorf("list as JSON: %+v", got)
	}
	if got := program(t, "", "token", "revoke", "ci", "--file", file); got.code != exitOK {
		t.Errorf("revoke: %+v", got)
	}
	if got := program(t, "", "token", "revoke", "ci", "--file", file); got.code != exitNotFound {
		t.Errorf("revoked twice: %+v", got)
	}
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"token list":                                        {exitUsage, "--file"},
		"token list --file /nonexistent/tokens":             {exitConfig, "no such file"},
		"token create":                                      {exitUsage, "takes NAME"},
		"token create x --expires -1s --file " + file:       {exitUsage, "in the past"},
		"token create x --allow fly --file " + file:         {exitUsage, "no verb"},
		"token create x --prefix a --file " + file:          {exitUsage, "allows nothing"},
		"bench put --streams 2":                             {exitUsage, "need --kahuna"},
		"bench put --kahuna nowhere":                        {exitUsage, "it is a URL"},
		"bench put --kahuna http://127.0.0.1:1 --http":      {exitUsage, "http"},
		"bench put --kahuna http://127.0.0.1:1 --streams 0": {exitUsage, "--streams is 0"},
	} {
		got := program(t, "", strings.Fields(args)...)
		if got.code != want.code || !strings.Contains(got.err, want.says) || strings.Count(got.err, "\n") != 1 {
			t.Errorf("%s: %+v, want %d and %q", args, got, want.code, want.says)
		}
	}
}
