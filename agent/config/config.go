package config

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
)

// Role says whether an agent takes part in the quorum.
type Role string

// The roles.
const (
	Auto  Role = "auto"  // votes when the cluster needs it
	Voter Role = "voter" // always votes
	Proxy Role = "proxy" // never votes
)

// Gossip says how far apart agents are, or that they do not gossip.
type Gossip string

// The profiles of gossip.
const (
	GossipLAN   Gossip = "lan"
	GossipWAN   Gossip = "wan"
	GossipLocal Gossip = "local"
	GossipOff   Gossip = "off"
)

// Storage is the kind of engine that a voter keeps its state in.
type Storage string

// The engines. A binary built without RocksDB refuses it when it opens one.
const (
	Memory  Storage = "memory"
	SQLite  Storage = "sqlite"
	RocksDB Storage = "rocksdb"
)

// LogFormat is how log lines are written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Config is configuration that was understood and checked.
type Config struct {
	NodeName string // for people; never empty
	DataDir  string // absolute; empty with Dev
	Socket   string // absolute, at most 107 bytes
	Role     Role
	Storage  Storage
	Bind     string // HOST:PORT to listen on for agents; port 0 only with Dev
	// Advertise is HOST:PORT that others reach this agent at, never a wildcard.
	// With Dev and port 0 it is only known after listening.
	Advertise string
	Join      []string // HOST:PORT of others, without duplicates; own address may be among them
	// JoinClouds are lists of others that clouds keep (discovery/cloud).
	JoinClouds []string
	Voters     int    // how many voters the cluster keeps, of those with role auto; 3 or 5
	Zone       string // where voters are spread over; may be empty
	Gossip     Gossip
	// BootstrapExpect is how many voters form a new cluster: 1 alone, 0 joins
	// one that exists.
	BootstrapExpect int
	SecretFile      string // absolute; empty with Dev: the secret is made in memory
	// MakeSecret allows to make SecretFile when it does not exist: the agent is alone.
	MakeSecret bool
	PKI        PKI
	HTTP       string // HOST:PORT, empty: off
	Kahuna     Kahuna
	Upstream   Upstream // with URLs the role is proxy, of a Kahuna cluster
	Dev        bool
	LogLevel   slog.Level
	LogFormat  LogFormat
	// Policy is nil when no rule was written: own user, root and group kahu may do
	// everything.
	Policy *policy.Policy
	// AllowVolatile lets a voter live on a disk that a reboot forgets.
	AllowVolatile bool
	// FeatureLevelCap is the highest feature level that this agent is to know; 0:
	// all that the binary knows.
	FeatureLevelCap uint32
	// MinFreeBytes is how much room the data directory's file system must have, or
	// a voter takes no more writes that need some. 0: never refuse.
	MinFreeBytes int64
	Backup       Backup
	Limits       Limits
	Timeouts     Timeouts
	// Written is what all of it was understood from, file, environment and flags.
	Written File
	// Path is the file that was read, empty when none.
	Path string
	// Warnings are lines for the log: allowed, but probably not meant.
	Warnings []string
}

// Backup is how backups are taken by themselves.
type Backup struct {
	Dir      string        // absolute; empty: none are taken
	Interval time.Duration // between two
	Keep     int           // newest so many; 0: any number
	MaxAge   time.Duration // younger ones; 0: any age
}

// Limits are the sizes and counts that can be set.
type Limits struct {
	ValueSizeBytes       int64
	MemtableSizeBytes    int64
	TrailingLogSizeBytes int64
	Holds                int
	Transactions         int // open at once while this voter leads; 0: no bound of its own
}

// Timeouts are the durations that can be set.
type Timeouts struct {
	Request  time.Duration
	Shutdown time.Duration
	GrantAck time.Duration
	// ReplaceVoter is how long a voter has to be silent until it is replaced.
	ReplaceVoter time.Duration
}

// Problem is one thing that is wrong, and what to do about it.
type Problem struct {
	Key    string // as in the file, for example "timeouts.request"
	Source string // where the value came from: "--bind", "KAHU_BIND", a path; empty for a default
	Text   string
}

// String is one line.
func (p Problem) String() string {
	switch {
	case p.Key == "":
		return p.Text
	case p.Source == "":
		return fmt.Sprintf("%s: %s", p.Key, p.Text)
	}
	return fmt.Sprintf("%s (from %s): %s", p.Key, p.Source, p.Text)
}

// Problems is everything that is wrong, in the order of the keys of File. It is
// an error when not empty.
type Problems []Problem

// Error has a line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}
