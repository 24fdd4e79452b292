package voter

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/kahu-sh/kahu/storage"
)

// Storage is what a voter needs from its data directory. The agent's adapter
// over package datadir implements it; MemoryStorage does for --dev.
type Storage interface {
	// Engine returns the engine of the current generation, opened. The Storage
	// owns it: the voter closes what it laid over it, never the engine.
	Engine() storage.Engine
	// LogDir is the directory of the Raft log; empty means a log in memory.
	LogDir() string
	// NewGeneration makes an empty engine beside the current one, to be filled
	// from a snapshot. An earlier unfinished one is discarded.
	NewGeneration() (Generation, error)
}

// Generation is an engine that is being filled.
type Generation interface {
	Engine() storage.Engine
	// Activate makes this generation the current one, atomically and durably, and
	// closes and removes the one before it. Nothing may use the old engine any more.
	Activate() error
	// Discard closes and removes the generation. After Activate it does nothing.
	Discard() error
}

// Config is what a Voter is built from. Fields without "optional" must be set.
type Config struct {
	// NodeID is the Raft id: made with the data directory, never reused. It is
	// the Raft address as well (HAZARDS.md 23).
	NodeID  string
	Storage Storage

	// Stream carries Raft's own RPCs. The voter closes it. Dial gets the address
	// that Address returned.
	Stream raft.StreamLayer
	// Address resolves a node id to where its Raft port answers now.
	Address func(node string) (addr string, ok bool)
	// Transport, optional, replaces Stream and Address. For tests.
	Transport raft.Transport

	// AskTerm asks another voter for its current Raft term (link.Pool.Term).
	AskTerm func(ctx context.Context, node string) (uint64, error)
	// AskReadIndex asks the leader for an index at which a read is linearizable
	// (link.Pool.ReadIndex).
	AskReadIndex func(ctx context.Context, node string) (uint64, error)

	// LeaseNow is this host's lease time (boottime.Now, DESIGN.md §3). Only
	// differences within one process count.
	LeaseNow func() time.Duration
	// Wall is the wall clock, which only labels. Optional: time.Now.
	Wall func() time.Time
	// Boottime is a clock that nobody steps and that counts suspend: a wall clock
	// that has moved otherwise is not believed alone (package wallclock). Optional:
	// Go's monotonic clock.
	Boottime func() time.Duration
	// AskWall asks another voter for its wall clock (link.Pool.Wall). Optional: none
	// answers.
	AskWall func(ctx context.Context, node string) (time.Time, error)
	// AnnouncedLevel returns the highest feature level that every voter has
	// announced. Optional: the level of this binary, which is right only while
	// all voters run the same one.
	AnnouncedLevel func() uint32
	// MaxLevel makes this voter one that knows no higher feature level, nor the
	// snapshots that are written under one. Optional: 0 is all that this binary knows.
	MaxLevel uint32

	// Fatal ends the process: a store failed or this voter's state diverged. It is
	// called at most once, from any goroutine, possibly with locks held. The agent
	// writes one line and exits with 1, without any graceful step (HAZARDS.md 10).
	Fatal  func(error)
	Logger *slog.Logger

	// MaxTransactions bounds the interactive transactions that are open while this
	// voter leads. Beyond, a start waits at the leader, by priority. Optional: 0 is
	// no bound but that of the state machine.
	MaxTransactions int
	// FreeBytes tells how much room is left on the disk of the storage; it may hang
	// with the disk. While it is below MinFreeBytes this voter, when it leads,
	// refuses what needs room. Optional: never refused.
	FreeBytes    func() (int64, error)
	MinFreeBytes int64

	// MemtableBytes bounds changes not yet in the engine. Optional: memtable's default.
	MemtableBytes int64
	// BacklogBytes bounds entries that are committed and wait in memory to be
	// applied: while there are more, entries of a leader wait in the network. One
	// request, of up to 16 entries, may overshoot it. Optional: 8 MiB.
	BacklogBytes int64
	// StallAfter is the age of a running log write, flush or apply from which on
	// this voter sends no AppendEntries. Optional: 1 s.
	StallAfter time.Duration
	// TrailingBytes and TrailingEntries bound what stays in the log below the
	// engine's index for followers that lag. Optional: 256 MiB, 100,000.
	TrailingBytes   int64
	TrailingEntries uint64
	// CompactBytes is how much log is written between two flushes that let the
	// log be cut. Optional: 64 MiB.
	CompactBytes int64

	// timing is Raft's; tests shorten it.
	timing timing
	// logFiles lets tests break the disk of the log.
	logFiles func(types.SegmentFiler) types.SegmentFiler
}

// timing is how fast elections go (HAZARDS.md 25: detection within 1 s).
//
// A leader that hears nobody for lease deposes itself. It is as long as the others
// wait before they elect: with half of it, a leader whose host was busy for a moment
// gave up although it was still followed, and nobody led for a second or more. No
// read depends on it (package reads asks the voters).
type timing struct {
	heartbeat, election, lease, commit time.Duration
}

var defaultTiming = timing{
	heartbeat: 500 * time.Millisecond,
	election:  500 * time.Millisecond,
	lease:     500 * time.Millisecond,
	commit:    50 * time.Millisecond,
}

// withDefaults checks c and fills in what is optional.
func (c Config) withDefaults() (Config, error) {
	var problems []error
	missing := func(bad bool, name string) {
		if bad {
			problems = append(problems, errors.New(name+" is not set"))
		}
	}
	missing(c.NodeID == "", "NodeID")
	missing(c.Storage == nil, "Storage")
	missing(c.Transport == nil && c.Stream == nil, "Stream")
	missing(c.Transport == nil && c.Address == nil, "Address")
	missing(c.AskTerm == nil, "AskTerm")
	missing(c.AskReadIndex == nil, "AskReadIndex")
	missing(c.LeaseNow == nil, "LeaseNow")
	missing(c.Fatal == nil, "Fatal")
	missing(c.Logger == nil, "Logger")
	if err := errors.Join(problems...); err != nil {
		return c, err
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	setBoottime(&c)
	setDefault(&c.BacklogBytes, 8<<20)
	setDefault(&c.StallAfter, time.Second)
	setDefault(&c.TrailingBytes, 256<<20)
	setDefault(&c.TrailingEntries, 100_000)
	setDefault(&c.CompactBytes, 64<<20)
	setDefault(&c.timing, defaultTiming)
	return c, nil
}

// setBoottime sets Go's own clock where there is no better one.
func setBoottime(c *Config) {
	if c.Boottime == nil {
		start := time.Now()
		c.Boottime = func() time.Duration { return time.Since(start) }
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
