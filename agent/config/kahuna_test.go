package config_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kahu-sh/kahu/agent/config"
)

func TestKahuna(t *testing.T) {
	secret, file := write(t, "secret", "s"), write(t, "cert.pem", "")
	open := write(t, "key.pem", "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	named := write(t, "named.yaml", "policy: [{certificates: ['*'], anonymous: true, allow: [lock]}]")
	unnamed := write(t, "unnamed.yaml", "policy: [{users: ['7'], allow: [lock]}]")
	with := func(args ...string) []string { return append(args, "--secret-file", secret) }
	for _, c := range []struct {
		name      string
		args      []string
		addresses string // of the host; empty: the usual one
		want      string // part of the only problem; empty: none
		warn      string
		listen    string // with commas
		advertise string
	}{
		{name: "off", args: with()},
		{name: "default, insecure", args: with("--kahuna-listen=default", "--kahuna-insecure"),
			listen: "127.0.0.1:2070,127.0.0.1:2071,127.0.0.1:2072", advertise: "http://127.0.0.1:2070"},
		{name: "default, secure", args: with("--kahuna-listen=default", "--kahuna-token-file=/t", "--bind=10.0.0.5:7350"),
			listen: ":2070,:2071,:2072", advertise: "https://10.0.0.5:2070"},
		{name: "ports and addresses", args: with("--kahuna-listen=2071,10.0.0.5:2070,2071,[::1]:9", "--kahuna-token-file=/t"),
			listen: ":2071,10.0.0.5:2070,[::1]:9", advertise: "https://127.0.0.1:2071"},
		{name: "loopback among hosts", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--bind=10.0.0.5:7350"), listen: "127.0.0.1:2070"},
		{name: "named by the operator", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-advertise=https://[2001:db8::1]:2071/"),
			listen: "127.0.0.1:2070", advertise: "https://[2001:db8::1]:2071"},
		{name: "nobody is trusted", args: with("--kahuna-listen=2070"), want: "nobody could use it"},
		{name: "everybody and some", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-token-file=/t"), want: "it takes everybody"},
		{name: "certificate without key", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-tls-cert="+file), want: "a certificate and its key"},
		{name: "key that all can read", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-tls-cert="+file, "--kahuna-tls-key="+open),
			warn: "chmod 600", listen: "127.0.0.1:2070", advertise: "http://127.0.0.1:2070"},
		{name: "no such CA", args: with("--kahuna-listen=2070", "--kahuna-client-ca=/nonexistent", "--config="+named), want: "cannot read"},
		{name: "certificates of nobody", args: with("--kahuna-listen=2070", "--kahuna-client-ca="+file), want: "no rule of the policy"},
		{name: "certificates of nobody, by the policy", args: with("--kahuna-listen=2070", "--kahuna-client-ca="+file, "--config="+unnamed), want: "no rule of the policy"},
		{name: "certificates", args: with("--kahuna-listen=2070", "--kahuna-client-ca="+file, "--config="+named), listen: ":2070", advertise: "https://127.0.0.1:2070"},
		{name: "anonymous by the policy", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--config="+named), listen: "127.0.0.1:2070", advertise: "http://127.0.0.1:2070"},
		{name: "nobody anonymous", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--config="+unnamed), want: "no rule of the policy"},
		{name: "insecure and private", args: with("--kahuna-listen=10.0.0.5:2070", "--kahuna-insecure"), warn: "may do everything",
			listen: "10.0.0.5:2070", advertise: "http://10.0.0.5:2070"},
		{name: "insecure and public", args: with("--kahuna-listen=203.0.113.7:2070", "--kahuna-insecure"), want: "can be reached from the internet at 203.0.113.7"},
		{name: "insecure everywhere, private", args: with("--kahuna-listen=0.0.0.0:2070", "--kahuna-insecure"), addresses: "127.0.0.1,10.0.0.5,fe80::1,100.64.0.1,fd00::1",
			warn: "may do everything", listen: "0.0.0.0:2070", advertise: "http://127.0.0.1:2070"},
		{name: "insecure everywhere, public", args: with("--kahuna-listen=:2070", "--kahuna-insecure"), addresses: "10.0.0.5,2001:db8::1", want: "at 2001:db8::1"},
		{name: "port 0", args: with("--kahuna-listen=0", "--kahuna-insecure"), listen: "127.0.0.1:0", advertise: "http://127.0.0.1:0"},
		{name: "large port", args: with("--kahuna-listen=70000", "--kahuna-insecure"), want: "port between"},
		{name: "port 0 for dev", args: []string{"--dev", "--kahuna-listen=0", "--kahuna-insecure"}, listen: "127.0.0.1:0", advertise: "http://127.0.0.1:0"},
		{name: "not an address", args: with("--kahuna-listen=everywhere", "--kahuna-insecure"), want: "\"everywhere\" is not HOST:PORT"},
		{name: "idle", args: with("--kahuna-insecure"), want: "it says how"},
		{name: "advertised path", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-advertise=http://10.0.0.1:1/x"), want: "is not scheme, address and port"},
		{name: "advertised without port", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-advertise=http://10.0.0.1"), want: "is not scheme, address and port"},
		{name: "advertised wildcard", args: with("--kahuna-listen=2070", "--kahuna-insecure", "--kahuna-advertise=http://0.0.0.0:1"), want: "every address"},
		{name: "clear text for a proxy", args: with("--kahuna-listen=2071,http://127.0.0.1:2070/", "--kahuna-token-file=/t", "--kahuna-advertise=http://10.0.0.1:80"),
			listen: ":2071,http://127.0.0.1:2070", advertise: "http://10.0.0.1:80"},
		{name: "clear text alone", args: with("--kahuna-listen=http://127.0.0.1:2070", "--kahuna-token-file=/t"), listen: "http://127.0.0.1:2070", advertise: "http://127.0.0.1:2070"},
		{name: "clear text without tokens", args: with("--kahuna-listen=http://127.0.0.1:2070", "--kahuna-client-ca="+file, "--config="+named), want: "set kahuna-token-file"},
		{name: "clear text on the network", args: with("--kahuna-listen=http://10.0.0.5:2070", "--kahuna-token-file=/t"), warn: "can read its clients' tokens",
			listen: "http://10.0.0.5:2070", advertise: "http://10.0.0.5:2070"},
		{name: "clear text on the internet", args: with("--kahuna-listen=http://203.0.113.7:2070", "--kahuna-token-file=/t"), want: "tokens could be read on their way"},
		{name: "clear text everywhere", args: with("--kahuna-listen=http://:2070", "--kahuna-token-file=/t"), addresses: "10.0.0.5,2001:db8::1", want: "at 2001:db8::1"},
		{name: "clear text or TLS alone, insecure", args: with("--kahuna-listen=http://127.0.0.1:2070,https://127.0.0.1:2071", "--kahuna-insecure"),
			listen: "http://127.0.0.1:2070,https://127.0.0.1:2071", advertise: "http://127.0.0.1:2070"},
		{name: "another scheme", args: with("--kahuna-listen=ftp://127.0.0.1:2070", "--kahuna-insecure"), want: "is not HOST:PORT"},
		{name: "advertised clear text", args: with("--kahuna-listen=2070", "--kahuna-token-file=/t", "--kahuna-advertise=http://10.0.0.1:1"), want: "write https"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := host(t)
			if c.addresses != "" {
				h.Addresses = func() (all []netip.Addr, err error) {
					for a := range strings.SplitSeq(c.addresses, ",") {
						all = append(all, netip.MustParseAddr(a))
					}
					return all, nil
				}
			}
			cfg, err := config.Load(h, flags(t, c.args...))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "\n") > 0 {
					t.Fatalf("%v, want one line that says %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var listen []string
			for _, l := range cfg.Kahuna.Listen {
				listen = append(listen, l.String())
			}
			if got := strings.Join(listen, ","); got != c.listen || cfg.Kahuna.Advertise != c.advertise {
				t.Errorf("listens on %q and advertises %q, want %q and %q", got, cfg.Kahuna.Advertise, c.listen, c.advertise)
			}
			if got := strings.Join(cfg.Warnings, "\n"); c.warn == "" && got != "" || !strings.Contains(got, c.warn) {
				t.Errorf("warns %q, want %q", got, c.warn)
			}
		})
	}
}

func TestKahunaFromTheEnvironmentAndTheFile(t *testing.T) {
	h := host(t)
	path := write(t, "kahu.yaml", "kahuna-insecure: true\nkahuna-listen: [2070]\nlimits: {kahuna-connections: 7, kahuna-batch-streams: 5, kahuna-in-flight-per-stream: 6, kahuna-message-size: 8MiB, kahuna-unread-size: 2MiB}\n"+
		"timeouts: {kahuna-header: 1s, kahuna-idle: 2s, kahuna-silence: 3s, kahuna-unread: 4s}\nsecret-file: "+write(t, "secret", "s"))
	h.Environ = append(h.Environ, "KAHU_KAHUNA_LISTEN=2071, 2072")
	cfg, err := config.Load(h, flags(t, "--config", path))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]config.KahunaListen{{Address: "127.0.0.1:2071"}, {Address: "127.0.0.1:2072"}}, cfg.Kahuna.Listen); d != "" {
		t.Error(d)
	}
	want := config.KahunaLimits{Connections: 7, ConnectionsPerAddress: 1024, Requests: 8192, StreamsPerConnection: 256, BatchStreams: 5, InFlightPerStream: 6,
		MessageSizeBytes: 8 << 20, UnreadSizeBytes: 2 << 20, Header: time.Second, Idle: 2 * time.Second, Silence: 3 * time.Second, Unread: 4 * time.Second}
	if d := cmp.Diff(want, cfg.Kahuna.Limits); d != "" {
		t.Error(d)
	}
	bad := write(t, "bad.yaml", "limits: {kahuna-requests: 0, kahuna-streams-per-connection: 100000, kahuna-message-size: 1MiB, kahuna-in-flight-per-stream: -1}\n"+
		"timeouts: {kahuna-unread: 0s}\nsecret-file: "+write(t, "secret", "s"))
	if _, err := config.Load(h, flags(t, "--config", bad, "--kahuna-insecure")); err == nil || strings.Count(err.Error(), "limits.kahuna-") != 4 || strings.Count(err.Error(), "timeouts.kahuna-") != 1 {
		t.Errorf("%v, want four problems with limits and one with a timeout", err)
	}
}
