package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxSocketBytes is sun_path of Linux without its final zero byte.
	maxSocketBytes = 107
	maxValueBytes  = 16 << 20 // replication.MaxRequestBytes
	maxVoters      = 9        // more only cost writes; consensus papers and etcd stop at 7
	maxNodeName    = 255
)

// Check converts f. It goes through all keys and returns everything that is
// wrong; the Config is only usable when there are no Problems.
func Check(f File, host Host) (Config, Problems) {
	c := &checker{f: f, host: host, cfg: Config{Written: f}}
	c.cfg.Dev, c.cfg.AllowVolatile = f.Dev, f.AllowVolatile
	c.names()
	c.upstream()
	c.dev()
	c.paths()
	c.kinds()
	c.addresses()
	c.cluster()
	c.secret()
	c.pki()
	c.policy()
	c.level()
	c.limits()
	c.kahuna()
	c.backup()
	c.timeouts()
	return c.cfg, c.problems
}

// checker collects; each method is about a few keys.
type checker struct {
	f        File
	host     Host
	cfg      Config
	problems Problems
}

func (c *checker) problem(key, format string, args ...any) {
	c.problems = append(c.problems, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) warn(format string, args ...any) {
	c.cfg.Warnings = append(c.cfg.Warnings, fmt.Sprintf(format, args...))
}

func (c *checker) names() {
	name := c.f.NodeName
	if name == "" {
		name = c.host.HostName
	}
	switch {
	case name == "":
		c.problem("node-name", "this host has no name; set one")
	case len(name) > maxNodeName:
		c.problem("node-name", "%d bytes are more than %d", len(name), maxNodeName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		c.problem("node-name", "%q has spaces or control characters", name)
	}
	c.cfg.NodeName = name
}

// level reads feature-level-cap. What the binary knows is the agent's to say.
func (c *checker) level() {
	const most = 1 << 16
	if n := c.f.FeatureLevelCap; n < 0 || n > most {
		c.problem("feature-level-cap", "%d is not between 0, for no cap, and %d", n, most)
		return
	}
	c.cfg.FeatureLevelCap = uint32(c.f.FeatureLevelCap)
}

// dev refuses what contradicts "in memory, alone, leaves nothing behind".
func (c *checker) dev() {
	if !c.f.Dev {
		return
	}
	refuse := func(key string, set bool) {
		if set {
			c.problem(key, "--dev is one voter in memory that leaves nothing behind; leave out %s or --dev", key)
		}
	}
	d := Defaults()
	refuse("data-dir", c.f.DataDir != "")
	refuse("role", c.f.Role == string(Proxy))
	refuse("storage", c.f.Storage != d.Storage && c.f.Storage != string(Memory))
	refuse("join", len(c.f.Join) > 0)
	refuse("bootstrap-expect", c.f.BootstrapExpect > 1)
	refuse("secret-file", c.f.SecretFile != "")
	refuse("tls-cert", c.f.TLSCert != "")
	refuse("tls-crl", c.f.TLSCRL != "")
	refuse("tls-accept-secret", c.f.TLSAcceptSecret)
	if c.f.Storage == d.Storage {
		c.f.Storage = string(Memory)
	}
	if c.f.Role == d.Role {
		c.f.Role = string(Voter)
	}
	c.f.Gossip = string(GossipOff) // there is nobody to tell
	if c.f.Bind == d.Bind {
		c.f.Bind = "127.0.0.1:0" // beside a real agent on the same host
	}
}

func (c *checker) paths() {
	if !c.f.Dev {
		c.cfg.DataDir = c.path("data-dir", c.f.DataDir, c.defaultDataDir)
	}
	c.cfg.Socket = c.path("socket", c.f.Socket, c.defaultSocket)
	if n := len(c.cfg.Socket); n > maxSocketBytes {
		c.problem("socket", "the path %s has %d bytes, and the kernel allows %d; choose a shorter one", c.cfg.Socket, n, maxSocketBytes)
	}
}

// path makes a path absolute, or takes the default when it was not set.
func (c *checker) path(key, value string, byDefault func() (string, string)) string {
	if value == "" {
		path, problem := byDefault()
		if problem != "" {
			c.problem(key, "%s", problem)
		}
		return path
	}
	if strings.ContainsRune(value, 0) {
		c.problem(key, "a path cannot contain a zero byte")
		return ""
	}
	abs, err := filepath.Abs(value)
	if err != nil {
		c.problem(key, "%v; give an absolute path", err)
	}
	return abs
}

// managedDir is a directory that the service manager made for this service
// (StateDirectory= and RuntimeDirectory= of systemd.exec(5)), empty without one.
func (c *checker) managedDir(variable string) string {
	first, _, _ := strings.Cut(c.host.getenv(variable), ":")
	if !filepath.IsAbs(first) {
		return ""
	}
	return first
}

func (c *checker) defaultDataDir() (path, problem string) {
	if dir := c.managedDir("STATE_DIRECTORY"); dir != "" {
		return dir, ""
	}
	if c.host.UID == 0 {
		return systemDataDir, ""
	}
	if dir := c.host.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) { // the XDG rules ignore relative ones
		return filepath.Join(dir, "kahu"), ""
	}
	if c.host.HomeDir == "" {
		return "", "this user has no home directory; set one"
	}
	return filepath.Join(c.host.HomeDir, ".local", "state", "kahu"), ""
}

func (c *checker) defaultSocket() (path, problem string) {
	if dir := c.managedDir("RUNTIME_DIRECTORY"); dir != "" {
		return filepath.Join(dir, "kahu.sock"), ""
	}
	if c.host.UID == 0 {
		return "/run/kahu/kahu.sock", ""
	}
	if dir := c.host.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kahu", "kahu.sock"), ""
	}
	return "", "XDG_RUNTIME_DIR is not set for this user; set it or the socket"
}

func (c *checker) kinds() {
	c.cfg.Role = oneOf(c, "role", c.f.Role, Auto, Voter, Proxy)
	c.cfg.Gossip = oneOf(c, "gossip", c.f.Gossip, GossipLAN, GossipWAN, GossipLocal, GossipOff)
	c.cfg.Storage = oneOf(c, "storage", c.f.Storage, Memory, SQLite, RocksDB)
	c.cfg.LogFormat = oneOf(c, "log-format", c.f.LogFormat, LogText, LogJSON)
	switch strings.ToLower(c.f.LogLevel) { // slog's own parser also takes "info+3"
	case "debug":
		c.cfg.LogLevel = slog.LevelDebug
	case "info":
		c.cfg.LogLevel = slog.LevelInfo
	case "warn":
		c.cfg.LogLevel = slog.LevelWarn
	case "error":
		c.cfg.LogLevel = slog.LevelError
	default:
		c.problem("log-level", "%q is not debug, info, warn or error", c.f.LogLevel)
	}
}

// oneOf checks a text against its possible values.
func oneOf[T ~string](c *checker, key, value string, allowed ...T) T {
	if slices.Contains(allowed, T(value)) {
		return T(value)
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	last := len(names) - 1
	c.problem(key, "%q is not %s or %s", value, strings.Join(names[:last], ", "), names[last])
	return ""
}

// secret finds the secret file. Only an agent that is alone may make one: made
// twice, two secrets would look like two clusters.
func (c *checker) secret() {
	if c.f.Dev || c.host.Alone || c.cfg.Role == "" || len(c.f.Upstream) > 0 { // an empty role is reported under role
		return
	}
	alone := c.cfg.Role != Proxy && len(c.f.Join) == 0 && c.cfg.BootstrapExpect == 1
	path, byDefault := c.f.SecretFile, c.f.SecretFile == ""
	if byDefault {
		if c.cfg.DataDir == "" {
			return // reported under data-dir
		}
		path = filepath.Join(c.cfg.DataDir, "secret")
		if dir := c.host.getenv("CREDENTIALS_DIRECTORY"); dir != "" {
			credential := filepath.Join(dir, secretCredential)
			if _, given := c.host.FileMode(credential); given {
				path, byDefault = credential, false
			}
		} else if _, own := c.host.FileMode(path); !own && c.host.UID == 0 && c.cfg.DataDir == systemDataDir {
			// Root looks after the agent of this host, whose secret systemd gives to
			// nobody else.
			if _, given := c.host.FileMode(filepath.Join(credentialStore, secretCredential)); given {
				path, byDefault = filepath.Join(credentialStore, secretCredential), false
			}
		}
	}
	path = c.path("secret-file", path, nil)
	c.cfg.SecretFile = path
	mode, exists := c.host.FileMode(path)
	if !exists {
		if alone && byDefault {
			c.cfg.MakeSecret = true
			return
		}
		c.problem("secret-file", "there is no file %s; copy the cluster's secret there, or make the first one with: kahu keygen %s", path, path)
		return
	}
	if err := c.host.CanRead(path); err != nil {
		c.problem("secret-file", "cannot read it: %v", err)
		return
	}
	if mode&0o077 != 0 {
		c.warn("secret-file %s can be read by others than its owner; fix with: chmod 600 %s", path, path)
	}
}

// maxTransactions is what the state machine allows to be open at once.
const maxTransactions = 10_000

func (c *checker) limits() {
	c.cfg.MinFreeBytes = c.size("min-free", c.f.MinFree, 0, 1<<50)
	l := &c.cfg.Limits
	l.ValueSizeBytes = c.size("limits.value-size", c.f.Limits.ValueSize, 1, maxValueBytes)
	l.MemtableSizeBytes = c.size("limits.memtable-size", c.f.Limits.MemtableSize, 1<<20, 4<<30)
	l.TrailingLogSizeBytes = c.size("limits.trailing-log-size", c.f.Limits.TrailingLogSize, 1<<20, 1<<40)
	l.Holds = c.f.Limits.Holds
	if l.Holds < 1 || l.Holds > 1<<20 {
		c.problem("limits.holds", "%d is not between 1 and %d", l.Holds, 1<<20)
	}
	l.Transactions = c.f.Limits.Transactions
	if l.Transactions < 0 || l.Transactions > maxTransactions {
		c.problem("limits.transactions", "%d is not between 0 and %d", l.Transactions, maxTransactions)
	}
}

// minBackupInterval keeps a slip of the pen from filling a disk.
const minBackupInterval = time.Minute

func (c *checker) backup() {
	b, f := &c.cfg.Backup, c.f.Backup
	b.Keep = f.Keep
	if f.Keep < 0 {
		c.problem("backup.keep", "%d is not a number of backups; 0 keeps all", f.Keep)
	}
	b.Interval = c.duration("backup.interval", f.Interval, minBackupInterval, 366*24*time.Hour)
	if f.MaxAge != "" {
		b.MaxAge = c.duration("backup.max-age", f.MaxAge, minBackupInterval, 100*366*24*time.Hour)
	}
	if f.Directory == "" {
		return
	}
	b.Dir = c.path("backup.directory", f.Directory, nil)
	switch {
	case c.f.Dev:
		c.problem("backup.directory", "--dev leaves nothing behind; leave out one of the two")
	case c.cfg.Role == Proxy:
		c.problem("backup.directory", "a proxy may not read the whole cluster; configure backups on a voter")
	case c.cfg.DataDir != "" && within(c.cfg.DataDir, b.Dir):
		c.problem("backup.directory", "%s is in the data directory, and would be lost with it; choose another disk", b.Dir)
	}
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// size reads "64MiB", "1 KiB" or a number of bytes.
func (c *checker) size(key, text string, least, most int64) int64 {
	number, unit := strings.TrimSpace(text), int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}} {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		c.problem(key, "%q is not a size; write for example 64MiB, or a number of bytes", text)
		return 0
	}
	if n < 0 || n > most/unit || n*unit < least {
		c.problem(key, "%s is not between %d and %d bytes", text, least, most)
		return 0
	}
	return n * unit
}

func (c *checker) timeouts() {
	t := &c.cfg.Timeouts
	t.Request = c.duration("timeouts.request", c.f.Timeouts.Request, 100*time.Millisecond, time.Hour)
	t.Shutdown = c.duration("timeouts.shutdown", c.f.Timeouts.Shutdown, 100*time.Millisecond, 10*time.Minute)
	t.GrantAck = c.duration("timeouts.grant-ack", c.f.Timeouts.GrantAck, 100*time.Millisecond, time.Minute)
	t.ReplaceVoter = c.duration("timeouts.replace-voter", c.f.Timeouts.ReplaceVoter, 10*time.Second, 30*24*time.Hour)
}

func (c *checker) duration(key, text string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil {
		c.problem(key, "%q is not a duration; write for example 500ms or 10s", text)
		return 0
	}
	if d < least || d > most {
		c.problem(key, "%s is not between %s and %s", text, least, most)
		return 0
	}
	return d
}
