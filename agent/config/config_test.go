package config_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/kahu-sh/kahu/agent/config"
)

// host is a user's host with one address, a home and the groups that are named.
func host(t *testing.T) config.Host {
	home := t.TempDir()
	return config.Host{
		UID: 1000, HomeDir: home, HostName: "h1",
		Environ: []string{"XDG_RUNTIME_DIR=/run/user/1000"},
		LookupUser: func(name string) (uint32, error) {
			if name == "billing" {
				return 501, nil
			}
			return 0, errors.New("no such name")
		},
		LookupGroup: func(name string) (uint32, error) {
			if name == "www-data" {
				return 33, nil
			}
			return 0, errors.New("no such name")
		},
		Addresses: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("192.0.2.7")}, nil
		},
		CanRead: func(path string) error {
			f, err := os.Open(path)
			if err == nil {
				f.Close()
			}
			return err
		},
		FileMode: func(path string) (os.FileMode, bool) {
			info, err := os.Stat(path)
			if err != nil {
				return 0, false
			}
			return info.Mode().Perm(), true
		},
	}
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	fs.String("output", "text", "a flag of somebody else")
	config.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	h := host(t)
	got, err := config.Load(h, flags(t))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		NodeName: "h1", DataDir: h.HomeDir + "/.local/state/kahu", Socket: "/run/user/1000/kahu/kahu.sock",
		Role: config.Auto, Storage: config.SQLite, Bind: "127.0.0.1:7350", Advertise: "127.0.0.1:7350",
		Voters: 3, Gossip: config.GossipLAN,
		BootstrapExpect: 1, SecretFile: h.HomeDir + "/.local/state/kahu/secret", MakeSecret: true,
		PKI:      config.PKI{VoterName: "kahu-voter", ProxyName: "kahu-proxy"},
		LogLevel: slog.LevelInfo, LogFormat: config.LogText, Written: config.Defaults(),
		MinFreeBytes: 256 << 20, Backup: config.Backup{Interval: 24 * time.Hour, Keep: 7},
		Limits:   config.Limits{ValueSizeBytes: 1 << 20, MemtableSizeBytes: 64 << 20, TrailingLogSizeBytes: 256 << 20, Holds: 65536},
		Timeouts: config.Timeouts{Request: 10 * time.Second, Shutdown: 10 * time.Second, GrantAck: 5 * time.Second, ReplaceVoter: 10 * time.Minute},
		Kahuna: config.Kahuna{Limits: config.KahunaLimits{Connections: 4096, ConnectionsPerAddress: 1024, Requests: 8192, StreamsPerConnection: 256,
			BatchStreams: 10_000, InFlightPerStream: 4096, UnreadSizeBytes: 256 << 20, Header: 10 * time.Second, Idle: 5 * time.Minute, Silence: 20 * time.Second, Unread: 30 * time.Second}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	h.UID = 0
	if got, err = config.Load(h, nil); err != nil || got.DataDir != "/var/lib/kahu" || got.Socket != "/run/kahu/kahu.sock" {
		t.Fatalf("root: %+v, %v", got, err)
	}
}

// The sample file has every key, each at its default, and no other.
func TestSampleIsTheDefaults(t *testing.T) {
	var fromSample map[string]any
	if err := yaml.Unmarshal([]byte(config.Sample()), &fromSample); err != nil {
		t.Fatal(err)
	}
	d := config.Defaults()
	want := map[string]any{
		"node-name": d.NodeName, "data-dir": d.DataDir, "socket": d.Socket, "role": d.Role, "storage": d.Storage,
		"bind": d.Bind, "advertise": d.Advertise, "join": []any{}, "bootstrap-expect": d.BootstrapExpect,
		"tls-cert": d.TLSCert, "tls-key": d.TLSKey, "tls-ca": d.TLSCA, "tls-crl": d.TLSCRL, "tls-accept-secret": d.TLSAcceptSecret, "tls-voter-name": d.TLSVoterName, "tls-proxy-name": d.TLSProxyName,
		"secret-file": d.SecretFile, "http": d.HTTP, "dev": d.Dev, "allow-volatile": d.AllowVolatile, "feature-level-cap": d.FeatureLevelCap, "log-level": d.LogLevel, "log-format": d.LogFormat, "policy": []any{},
		"min-free": d.MinFree, "backup": map[string]any{"directory": d.Backup.Directory, "interval": d.Backup.Interval, "keep": d.Backup.Keep, "max-age": d.Backup.MaxAge},
		"limits": map[string]any{"value-size": d.Limits.ValueSize, "memtable-size": d.Limits.MemtableSize,
			"trailing-log-size": d.Limits.TrailingLogSize, "holds": d.Limits.Holds, "transactions": d.Limits.Transactions,
			"kahuna-connections": d.Limits.KahunaConnections, "kahuna-connections-per-address": d.Limits.KahunaConnectionsPerAddress,
			"kahuna-requests": d.Limits.KahunaRequests, "kahuna-streams-per-connection": d.Limits.KahunaStreamsPerConnection,
			"kahuna-batch-streams": d.Limits.KahunaBatchStreams, "kahuna-in-flight-per-stream": d.Limits.KahunaInFlightPerStream,
			"kahuna-message-size": d.Limits.KahunaMessageSize, "kahuna-unread-size": d.Limits.KahunaUnreadSize},
		"kahuna-listen": []any{}, "kahuna-tls-cert": d.KahunaTLSCert, "kahuna-tls-key": d.KahunaTLSKey, "kahuna-client-ca": d.KahunaClientCA,
		"kahuna-token-file": d.KahunaTokenFile, "kahuna-insecure": d.KahunaInsecure, "kahuna-advertise": d.KahunaAdvertise,
		"timeouts": map[string]any{"request": d.Timeouts.Request, "shutdown": d.Timeouts.Shutdown, "grant-ack": d.Timeouts.GrantAck, "replace-voter": d.Timeouts.ReplaceVoter,
			"kahuna-header": d.Timeouts.KahunaHeader, "kahuna-idle": d.Timeouts.KahunaIdle, "kahuna-silence": d.Timeouts.KahunaSilence, "kahuna-unread": d.Timeouts.KahunaUnread},
		"voters": d.Voters, "zone": d.Zone, "gossip": d.Gossip,
		"upstream": []any{}, "upstream-ca-file": d.UpstreamCAFile, "upstream-cert-file": d.UpstreamCertFile,
		"upstream-key-file": d.UpstreamKeyFile, "upstream-token-file": d.UpstreamTokenFile,
	}
	if d := cmp.Diff(want, fromSample); d != "" {
		t.Fatal(d)
	}
	h := host(t)
	byDefault, err := config.Load(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, "kahu.yaml", config.Sample())
	loaded, err := config.Load(h, flags(t, "--config", path))
	if err != nil {
		t.Fatal(err)
	}
	loaded.Path = ""
	if d := cmp.Diff(byDefault, loaded); d != "" {
		t.Fatal(d)
	}
	for key := range want {
		if key == "limits" || key == "timeouts" || key == "policy" || key == "backup" {
			continue
		}
		if flags(t).Lookup(key) == nil {
			t.Errorf("%s is no flag", key)
		}
	}
}

func TestLaterSourcesWin(t *testing.T) {
	h := host(t)
	secret := write(t, "secret", "s")
	path := write(t, "kahu.yaml", "node-name: file\nlog-level: warn\nlog-format: json\njoin: [127.0.0.1:1]\nsecret-file: "+secret+
		"\npolicy:\n  - {users: [billing, 7], groups: [www-data], prefixes: [a/], allow: [lock]}\ntimeouts: {request: 3s}\n")
	h.Environ = append(h.Environ, "KAHU_CONFIG="+path, "KAHU_NODE_NAME=env", "KAHU_LOG_LEVEL=error", "KAHU_JOIN=127.0.0.1:2, 127.0.0.1:3,127.0.0.1:2",
		"KAHU_LOCK=x", "KAHU_SERVICE_HOST=10.0.0.1", "KAHU_PORT=tcp://10.0.0.1:1", "KAHU_HTTP=", "KAHU_NONE=1")
	got, err := config.Load(h, flags(t, "--node-name", "flag", "--output", "json"))
	if err != nil {
		t.Fatal(err)
	}
	if got.NodeName != "flag" || got.LogLevel != slog.LevelError || got.LogFormat != config.LogJSON || got.Timeouts.Request != 3*time.Second || got.Path != path {
		t.Errorf("got %+v", got)
	}
	if d := cmp.Diff([]string{"127.0.0.1:2", "127.0.0.1:3"}, got.Join); d != "" {
		t.Error(d)
	}
	if got.Policy == nil {
		t.Error("the rules of the file are gone")
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "KAHU_NONE") {
		t.Errorf("warnings %q", got.Warnings)
	}
	if got.BootstrapExpect != 0 || got.MakeSecret {
		t.Errorf("one that joins forms a cluster or makes a secret: %+v", got)
	}
}

// One load names everything that is wrong, each by key and source.
func TestAllProblemsAtOnce(t *testing.T) {
	h := host(t)
	path := write(t, "kahu.yaml", `
rolle: voter
bind: 7350
dev: maybe
bootstrap-expect: many
policy:
  - users: [nobody-here]
    allow: [fly]
    why: not
limits: {value-size: 99GiB, holdz: 1}
timeouts: {request: 10, shutdown: 10h}
secret: abc
`)
	h.Environ = append(h.Environ, "KAHU_STORAGE=tape", "KAHU_SECRET=abc")
	_, err := config.Load(h, flags(t, "--config", path, "--role", "boss", "--log-level=loud"))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error %v", err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.Key+" from "+strings.ReplaceAll(p.Source, path, "file"))
	}
	want := []string{"role from --role", "storage from KAHU_STORAGE", "bind from file", "bootstrap-expect from file",
		"secret-file from KAHU_SECRET", "dev from file", "log-level from --log-level",
		"policy[0].why from file", "policy from file", "policy from file",
		"limits.holdz from file", "limits.value-size from file", "timeouts.request from file", "timeouts.shutdown from file",
		"rolle from file", "secret from file"}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s\n%s", d, err)
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		if len(line) > 300 || strings.Contains(line, "mapstructure") || strings.Contains(line, "'%") {
			t.Errorf("not a line for people: %s", line)
		}
	}
}

func TestCombinations(t *testing.T) {
	secret := write(t, "secret", "s")
	open := write(t, "open", "s")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(args ...string) []string { return append(args, "--secret-file", secret) }
	for _, c := range []struct {
		name string
		args []string
		want string // part of the only problem; empty: none
		warn string
	}{
		{name: "proxy alone", args: with("--role=proxy"), want: "join: a proxy asks the voters"},
		{name: "proxy", args: with("--role=proxy", "--join=10.0.0.1:7350")},
		{name: "proxy that bootstraps", args: with("--role=proxy", "--join=h:1", "--bootstrap-expect=3"), want: "bootstrap-expect"},
		{name: "three without join", args: with("--bootstrap-expect=3"), want: "join: 3 voters are to form a cluster"},
		{name: "three", args: with("--bootstrap-expect=3", "--join=127.0.0.1:1,localhost:2")},
		{name: "even", args: with("--bootstrap-expect=4", "--join=127.0.0.1:1"), warn: "even number"},
		{name: "one with join", args: with("--bootstrap-expect=1", "--join=127.0.0.1:1"), want: "bootstrap-expect"},
		{name: "negative", args: with("--bootstrap-expect=-1"), want: "bootstrap-expect"},
		{name: "join without secret", args: []string{"--join=127.0.0.1:1"}, want: "kahu keygen"},
		{name: "missing secret", args: []string{"--secret-file=/nonexistent/secret"}, want: "there is no file"},
		{name: "secret for all", args: []string{"--secret-file", open}, warn: "chmod 600"},
		{name: "loopback for others", args: with("--join=10.0.0.1:7350"), want: "advertise: 127.0.0.1:7350 cannot be reached by 10.0.0.1:7350"},
		{name: "wildcard", args: with("--bind=0.0.0.0:7350", "--join=10.0.0.1:7350")},
		{name: "advertised wildcard", args: with("--advertise=[::]:7350"), want: "advertise"},
		{name: "no port", args: with("--bind=127.0.0.1"), want: "HOST:PORT"},
		{name: "port 0", args: with("--bind=127.0.0.1:0"), want: "port between"},
		{name: "large port", args: with("--bind=127.0.0.1:70000"), want: "port between"},
		{name: "bad address", args: with("--bind=127.0.0.256:1"), want: "neither an address nor a host name"},
		{name: "bad host", args: with("--http=a b:1"), want: "http"},
		{name: "open http", args: with("--http=0.0.0.0:80"), warn: "callers have no identity"},
		{name: "long socket", args: with("--socket=/" + strings.Repeat("x", 107)), want: "107"},
		{name: "longest socket", args: with("--socket=/" + strings.Repeat("x", 106))},
		{name: "bad name", args: with("--node-name=a\nb"), want: "node-name"},
		{name: "dev", args: []string{"--dev"}},
		{name: "dev with data", args: []string{"--dev", "--data-dir=/x"}, want: "data-dir"},
		{name: "dev with join", args: []string{"--dev", "--join=127.0.0.1:1"}, want: "join"},
		{name: "dev on sqlite by name is memory", args: []string{"--dev", "--storage=memory"}},
		{name: "dev on rocksdb", args: []string{"--dev", "--storage=rocksdb"}, want: "storage"},
		{name: "missing file", args: []string{"--config=/nonexistent/kahu.yaml"}, want: "reading the configuration file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := config.Load(host(t), flags(t, c.args...))
			var problems config.Problems
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (!errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(strings.ReplaceAll(err.Error(), " (from", ":"), c.want) && !strings.Contains(problems[0].Key+": "+problems[0].Text, c.want)):
				t.Fatalf("error %v, want one about %q", err, c.want)
			}
			if text := strings.Join(cfg.Warnings, "\n"); c.want == "" && (c.warn == "") != (text == "") || !strings.Contains(text, c.warn) {
				t.Errorf("warnings %q, want %q", text, c.warn)
			}
		})
	}
}

func TestDev(t *testing.T) {
	cfg, err := config.Load(host(t), flags(t, "--dev"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "" || cfg.SecretFile != "" || cfg.MakeSecret || cfg.Storage != config.Memory || cfg.Role != config.Voter ||
		cfg.BootstrapExpect != 1 || cfg.Bind != "127.0.0.1:0" {
		t.Fatalf("got %+v", cfg)
	}
}

func TestAdvertiseOfAWildcard(t *testing.T) {
	for _, c := range []struct {
		addrs []string
		want  string // empty: a problem
	}{
		{[]string{"127.0.0.1", "::1", "fe80::1", "192.0.2.7"}, "192.0.2.7:7350"},
		{[]string{"192.0.2.7", "2001:db8::7"}, "192.0.2.7:7350"},
		{[]string{"2001:db8::7"}, "[2001:db8::7]:7350"},
		{[]string{"192.0.2.7", "192.0.2.8"}, ""},
		{[]string{"127.0.0.1"}, ""},
	} {
		t.Run(fmt.Sprint(c.addrs), func(t *testing.T) {
			h := host(t)
			h.Addresses = func() (out []netip.Addr, err error) {
				for _, a := range c.addrs {
					out = append(out, netip.MustParseAddr(a))
				}
				return out, nil
			}
			cfg, err := config.Load(h, flags(t, "--bind=:7350"))
			if (err == nil) != (c.want != "") || cfg.Advertise != c.want {
				t.Fatalf("advertise %q, error %v, want %q", cfg.Advertise, err, c.want)
			}
		})
	}
}

func TestBackup(t *testing.T) {
	for _, c := range []struct{ text, problem string }{
		{"backup: {directory: /srv/backups, interval: 1h, keep: 3, max-age: 720h}", ""},
		{"backup: {directory: /srv/backups, keep: 0}\ndata-dir: /srv/kahu\nsecret-file: SECRET", ""},
		{"backup: {directory: /srv/kahu/b}\ndata-dir: /srv/kahu\nsecret-file: SECRET", "backup.directory"},
		{"backup: {directory: /srv/b}\ndev: true", "backup.directory"},
		{"backup: {directory: /srv/b}\nrole: proxy\njoin: [10.0.0.1:1]\nsecret-file: SECRET", "backup.directory"},
		{"backup: {interval: 1s}", "backup.interval"},
		{"backup: {max-age: soon}", "backup.max-age"},
		{"backup: {keep: -1}", "backup.keep"},
		{"min-free: lots", "min-free"},
	} {
		secret := write(t, "secret", "x")
		path := write(t, "kahu.yaml", strings.ReplaceAll(c.text, "SECRET", secret)+"\n")
		_, err := config.Load(host(t), flags(t, "--config", path))
		var problems config.Problems
		if errors.As(err, &problems); (err == nil) != (c.problem == "") || err != nil && (len(problems) != 1 || problems[0].Key != c.problem) {
			t.Errorf("%s: %v, want a problem with %q", c.text, err, c.problem)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(config.Sample())
	f.Add("policy: [{users: 1}]\njoin: {a: b}\nlimits: 3\n")
	f.Add("? [a]\n: b\n")
	f.Add("join: [1, [2]]\ndev: {}\ntimeouts: []\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "kahu.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(host(t), flags(t, "--config", path))
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("an error that is not Problems: %v", err)
		}
		if err == nil && (cfg.Socket == "" || len(cfg.Socket) > 107 || cfg.Bind == "" || cfg.NodeName == "" || cfg.Limits.Holds < 1) {
			t.Fatalf("accepted %+v", cfg)
		}
	})
}

// systemd hands the secret over as a credential: a file of root's that only the
// service sees.
func TestSecretFromCredential(t *testing.T) {
	h := host(t)
	credential := write(t, "kahu-secret", "s")
	h.Environ = append(h.Environ, "CREDENTIALS_DIRECTORY="+filepath.Dir(credential))
	got, err := config.Load(h, flags(t))
	if err != nil || got.SecretFile != credential || got.MakeSecret {
		t.Errorf("alone: secret %q, made: %v, %v", got.SecretFile, got.MakeSecret, err)
	}
	own := write(t, "own", "s")
	if got, err = config.Load(h, flags(t, "--secret-file", own)); err != nil || got.SecretFile != own {
		t.Errorf("with a file of its own: secret %q, %v", got.SecretFile, err)
	}
	if err := os.Remove(credential); err != nil {
		t.Fatal(err)
	}
	if got, err = config.Load(h, flags(t)); err != nil || got.SecretFile != filepath.Join(got.DataDir, "secret") || !got.MakeSecret {
		t.Errorf("without the credential: secret %q, made: %v, %v", got.SecretFile, got.MakeSecret, err)
	}
}

// A file that is no YAML of ours: one line with what to do.
func TestFilesThatAreNotRead(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"tab":              {"bind: 10.0.0.1:7350\n\tjoin: []\n", "indent with blanks, not with tabs"},
		"twice":            {"role: proxy\nrole: voter\n", "line 2: mapping key \"role\" already defined at line 1; take one of the two out"},
		"list":             {"- bind: x\n", "line 1: it is a list or a text"},
		"text":             {"hello", "line 1: it is a list or a text"},
		"second document":  {"# a\n---\nrole: proxy\n--- # b\nrole: voter\n", "line 4: --- begins a second document"},
		"not text":         {"\xff\xfe\n", "kahu agent --print-config shows"},
		"an open bracket":  {"join: [a, b\nrole: proxy\n", "kahu agent --print-config shows"},
		"its first marker": {"---\nrole: auto\n", ""},
		"empty":            {"# nothing\n", ""},
	} {
		path := write(t, "kahu.yaml", c.text)
		_, err := config.Load(host(t), flags(t, "--config", path))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v; want one line with %q and the file", name, err, c.want)
		}
	}
}

// Root, who repairs, finds the secret that systemd gives to the service.
func TestSecretInTheCredentialStore(t *testing.T) {
	const stored = "/etc/credstore/kahu-secret"
	h := host(t)
	mode, read := h.FileMode, h.CanRead
	h.FileMode = func(path string) (os.FileMode, bool) {
		if path == stored {
			return 0o600, true
		}
		return mode(path)
	}
	h.CanRead = func(path string) error {
		if path == stored {
			return nil
		}
		return read(path)
	}
	for uid, want := range map[int]string{0: stored, 1000: "/var/lib/kahu/secret"} {
		h.UID = uid
		got, err := config.Load(h, flags(t, "--data-dir", "/var/lib/kahu", "--socket", "/run/kahu.sock"))
		if err != nil || got.SecretFile != want {
			t.Errorf("as user %d: secret %q, want %q; %v", uid, got.SecretFile, want, err)
		}
	}
	h.UID = 0
	if got, err := config.Load(h, flags(t, "--data-dir", t.TempDir())); err != nil || got.SecretFile == stored {
		t.Errorf("in another directory: secret %q, %v", got.SecretFile, err)
	}
}

// A service has the directories that systemd made for it.
func TestDirectoriesFromSystemd(t *testing.T) {
	h := host(t)
	h.Environ = append(h.Environ, "STATE_DIRECTORY=/var/lib/kahu:/var/lib/other", "RUNTIME_DIRECTORY=/run/kahu")
	got, err := config.Load(h, flags(t))
	if err != nil || got.DataDir != "/var/lib/kahu" || got.Socket != "/run/kahu/kahu.sock" {
		t.Errorf("data %q, socket %q, %v", got.DataDir, got.Socket, err)
	}
	if got, err = config.Load(h, flags(t, "--data-dir=/srv/kahu", "--socket=/srv/kahu.sock")); err != nil || got.DataDir != "/srv/kahu" || got.Socket != "/srv/kahu.sock" {
		t.Errorf("with flags: data %q, socket %q, %v", got.DataDir, got.Socket, err)
	}
}
