package config_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent/config"
)

func TestUpstream(t *testing.T) {
	file := write(t, "file.pem", "")
	open := write(t, "token", "t")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string // part of the only problem; empty: none
		warn string
		urls string // with commas
	}{
		{name: "two servers", args: []string{"--upstream=https://kahuna-1:8082,https://kahuna-2:8082/", "--upstream=https://kahuna-1:8082"},
			urls: "https://kahuna-1:8082,https://kahuna-2:8082"},
		{name: "IPv6", args: []string{"--upstream=https://[2001:db8::1]:8082"}, urls: "https://[2001:db8::1]:8082"},
		{name: "clear text", args: []string{"--upstream=http://10.0.0.5:2072"}, urls: "http://10.0.0.5:2072", warn: "clear text"},
		{name: "who signs, and who asks", args: []string{"--upstream=https://k:8082", "--upstream-ca-file=" + file, "--upstream-cert-file=" + file, "--upstream-key-file=" + file},
			urls: "https://k:8082"},
		{name: "as a proxy", args: []string{"--upstream=https://k:8082", "--role=proxy"}, urls: "https://k:8082"},
		{name: "a token that all can read", args: []string{"--upstream=https://k:8082", "--upstream-token-file=" + open}, urls: "https://k:8082", warn: "chmod 600"},
		{name: "no port", args: []string{"--upstream=https://kahuna-1"}, want: "is not scheme, host and port"},
		{name: "no scheme", args: []string{"--upstream=kahuna-1:8082"}, want: "is not scheme, host and port"},
		{name: "another scheme", args: []string{"--upstream=ftp://kahuna-1:8082"}, want: "is not scheme, host and port"},
		{name: "a path", args: []string{"--upstream=https://kahuna-1:8082/v1"}, want: "is not scheme, host and port"},
		{name: "a token in clear text", args: []string{"--upstream=https://k:8082,http://k:2072", "--upstream-token-file=" + file}, want: "anybody's"},
		{name: "a CA in clear text", args: []string{"--upstream=http://k:2072", "--upstream-ca-file=" + file}, want: "of no use"},
		{name: "certificate without key", args: []string{"--upstream=https://k:8082", "--upstream-cert-file=" + file}, want: "belong together"},
		{name: "no such file", args: []string{"--upstream=https://k:8082", "--upstream-ca-file=/nonexistent"}, want: "cannot read"},
		{name: "files without servers", args: []string{"--upstream-token-file=" + file, "--secret-file=" + file}, want: "none is named"},
		{name: "and a voter", args: []string{"--upstream=https://k:8082", "--role=voter"}, want: "leave out one of the two"},
		{name: "and others", args: []string{"--upstream=https://k:8082", "--join=10.0.0.1:7350"}, want: "leave out one of the two"},
		{name: "and a secret", args: []string{"--upstream=https://k:8082", "--secret-file=" + file}, want: "leave out one of the two"},
		{name: "and alone", args: []string{"--upstream=https://k:8082", "--dev"}, want: "leave out one of the two"},
		{name: "and Kahuna's clients", args: []string{"--upstream=https://k:8082", "--kahuna-listen=2070"}, want: "leave out one of the two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := config.Load(host(t), flags(t, c.args...))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("%v, want one problem with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(cfg.Upstream.URLs, ","); got != c.urls || cfg.Role != config.Proxy || cfg.SecretFile != "" {
				t.Errorf("%s as %s with the secret %q, want %s", got, cfg.Role, cfg.SecretFile, c.urls)
			}
			if warned := slices.ContainsFunc(cfg.Warnings, func(w string) bool { return c.warn != "" && strings.Contains(w, c.warn) }); warned != (c.warn != "") {
				t.Errorf("the warnings are %q, want %q", cfg.Warnings, c.warn)
			}
		})
	}
}
