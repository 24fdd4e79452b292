package config

import (
	_ "embed"
	"time"
)

// File is configuration as it was written: one field for each key of the YAML
// file, with texts not yet understood. The zero text "" means "choose for me".
type File struct {
	NodeName        string   `koanf:"node-name"`
	DataDir         string   `koanf:"data-dir"`
	Socket          string   `koanf:"socket"`
	Role            string   `koanf:"role"`
	Storage         string   `koanf:"storage"`
	Bind            string   `koanf:"bind"`
	Advertise       string   `koanf:"advertise"`
	Join            []string `koanf:"join"`
	BootstrapExpect int      `koanf:"bootstrap-expect"`
	Voters          int      `koanf:"voters"`
	Zone            string   `koanf:"zone"`
	Gossip          string   `koanf:"gossip"`
	SecretFile      string   `koanf:"secret-file"`
	TLSCert         string   `koanf:"tls-cert"`
	TLSKey          string   `koanf:"tls-key"`
	TLSCA           string   `koanf:"tls-ca"`
	TLSCRL          string   `koanf:"tls-crl"`
	TLSAcceptSecret bool     `koanf:"tls-accept-secret"`
	TLSVoterName    string   `koanf:"tls-voter-name"`
	TLSProxyName    string   `koanf:"tls-proxy-name"`
	HTTP            string   `koanf:"http"`
	KahunaListen    []string `koanf:"kahuna-listen"`
	KahunaTLSCert   string   `koanf:"kahuna-tls-cert"`
	KahunaTLSKey    string   `koanf:"kahuna-tls-key"`
	KahunaClientCA  string   `koanf:"kahuna-client-ca"`
	KahunaTokenFile string   `koanf:"kahuna-token-file"`
	KahunaInsecure  bool     `koanf:"kahuna-insecure"`
	KahunaAdvertise string   `koanf:"kahuna-advertise"`

	Upstream          []string `koanf:"upstream"`
	UpstreamCAFile    string   `koanf:"upstream-ca-file"`
	UpstreamCertFile  string   `koanf:"upstream-cert-file"`
	UpstreamKeyFile   string   `koanf:"upstream-key-file"`
	UpstreamTokenFile string   `koanf:"upstream-token-file"`

	Dev             bool         `koanf:"dev"`
	AllowVolatile   bool         `koanf:"allow-volatile"`
	FeatureLevelCap int          `koanf:"feature-level-cap"`
	LogLevel        string       `koanf:"log-level"`
	LogFormat       string       `koanf:"log-format"`
	MinFree         string       `koanf:"min-free"`
	Backup          FileBackup   `koanf:"backup"`
	Policy          []FileRule   `koanf:"policy"`
	Limits          FileLimits   `koanf:"limits"`
	Timeouts        FileTimeouts `koanf:"timeouts"`
}

// FileRule is one rule of the policy: policy.Text with the names of the file.
type FileRule struct {
	Users    []string `koanf:"users"`
	Groups   []string `koanf:"groups"`
	Units    []string `koanf:"units"`
	Everyone bool     `koanf:"everyone"`

	Certificates []string `koanf:"certificates"`
	Tokens       []string `koanf:"tokens"`
	Anonymous    bool     `koanf:"anonymous"`

	Prefixes []string `koanf:"prefixes"`
	Allow    []string `koanf:"allow"`
}

// FileLimits are sizes ("64MiB" or a number of bytes) and counts.
type FileLimits struct {
	ValueSize       string `koanf:"value-size"`
	MemtableSize    string `koanf:"memtable-size"`
	TrailingLogSize string `koanf:"trailing-log-size"`
	Holds           int    `koanf:"holds"`
	Transactions    int    `koanf:"transactions"`

	KahunaConnections           int `koanf:"kahuna-connections"`
	KahunaConnectionsPerAddress int `koanf:"kahuna-connections-per-address"`
	KahunaRequests              int `koanf:"kahuna-requests"`
	KahunaStreamsPerConnection  int `koanf:"kahuna-streams-per-connection"`
	KahunaBatchStreams          int `koanf:"kahuna-batch-streams"`
	KahunaInFlightPerStream     int `koanf:"kahuna-in-flight-per-stream"`

	KahunaMessageSize string `koanf:"kahuna-message-size"`
	KahunaUnreadSize  string `koanf:"kahuna-unread-size"`
}

// FileBackup is how backups are taken by themselves.
type FileBackup struct {
	Directory string `koanf:"directory"`
	Interval  string `koanf:"interval"`
	Keep      int    `koanf:"keep"`
	MaxAge    string `koanf:"max-age"`
}

// FileTimeouts are durations ("500ms", "10s").
type FileTimeouts struct {
	Request  string `koanf:"request"`
	Shutdown string `koanf:"shutdown"`
	GrantAck string `koanf:"grant-ack"`

	ReplaceVoter string `koanf:"replace-voter"`

	KahunaHeader  string `koanf:"kahuna-header"`
	KahunaIdle    string `koanf:"kahuna-idle"`
	KahunaSilence string `koanf:"kahuna-silence"`
	KahunaUnread  string `koanf:"kahuna-unread"`
}

const (
	// DefaultPort is where agents listen for agents.
	DefaultPort = 7350
	// defaultBind is loopback: an agent alone must not be reachable from the
	// network before somebody asked for it.
	defaultBind = "127.0.0.1:7350"
)

// Defaults is what an empty file means. sample.yaml says the same in text; a
// test holds the two together.
func Defaults() File {
	return File{
		Role:    string(Auto),
		Storage: string(SQLite),
		Bind:    defaultBind,
		Join:    []string{},
		Voters:  defaultVoters,
		Gossip:  string(GossipLAN),

		TLSVoterName: "kahu-voter",
		TLSProxyName: "kahu-proxy",

		KahunaListen: []string{},
		Upstream:     []string{},

		LogLevel:  "info",
		LogFormat: string(LogText),
		MinFree:   "256MiB",
		Backup:    FileBackup{Interval: "24h", Keep: 7},
		Policy:    []FileRule{},
		Limits: FileLimits{
			ValueSize:       "1MiB",
			MemtableSize:    "64MiB",
			TrailingLogSize: "256MiB",
			Holds:           65536,

			KahunaConnections:           4096,
			KahunaConnectionsPerAddress: 1024,
			KahunaRequests:              8192,
			KahunaStreamsPerConnection:  256,
			KahunaBatchStreams:          10_000,
			KahunaInFlightPerStream:     4096,
			KahunaUnreadSize:            "256MiB",
		},
		Timeouts: FileTimeouts{
			Request:  (10 * time.Second).String(),
			Shutdown: (10 * time.Second).String(),
			GrantAck: (5 * time.Second).String(),

			ReplaceVoter: "10m",

			KahunaHeader:  "10s",
			KahunaIdle:    "5m",
			KahunaSilence: "20s",
			KahunaUnread:  "30s",
		},
	}
}

//go:embed sample.yaml
var sample string

// Sample is the commented file with every key at its default, for packages and
// for kahu agent --print-config.
func Sample() string { return sample }
