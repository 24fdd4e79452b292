// Command capacity measures what an agent costs, with the shipped binary, and
// fails when a limit that kahu promises is passed:
//
//   - million: 1,000,000 keys of 1 KiB on an engine. No agent ever has more than
//     600 MB resident, neither while they are written nor while they are read
//     back; and a voter serves a linearizable read and a write within 5 s of its
//     start, after kill -9 under load and after an orderly stop, with the others
//     running and with all of them down.
//   - holds: an agent that keeps 1,000 locks alive and is idle otherwise uses
//     under 3 % of a core, and its renewals cost one log entry an interval.
//   - idle: a voter that nobody asks for anything has under 60 MB resident, a proxy
//     under 30 MB. Their share of a core is shown beside its target and fails
//     nothing: other programs of the host are in it. `make idle` is this part alone,
//     with a binary that was just built.
//
// Each part starts a cluster of its own on loopback (package test/cluster), one
// after the other. It takes minutes and writes some gigabytes to a temporary
// folder, so it is `make capacity` and no part of `make test`.
//
//	go run ./test/capacity [-parts million,holds,idle] [-storage sqlite,rocksdb] …
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// The limits, from the issue that this program was written for; the targets of
// an idle agent are those of a later one.
const (
	maxResidentBytes = 600_000_000
	maxRestart       = 5 * time.Second
	maxHoldsShare    = 0.03 // of a core

	targetVoterBytes = 60_000_000
	targetVoterShare = 0.01
	targetProxyBytes = 30_000_000
)

// settings are the command line.
type settings struct {
	parts     []string
	storages  []string
	dir       string
	voters    int
	keys      int
	valueSize int
	holds     int
	watch     time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(2)
	}
	r := &report{out: os.Stdout}
	if err := run(ctx, s, r); err != nil {
		fmt.Fprintln(os.Stderr, "capacity FAILED:", err)
		os.Exit(1)
	}
	if r.failed > 0 {
		fmt.Fprintf(os.Stderr, "capacity FAILED: %d limits were passed\n", r.failed)
		os.Exit(1)
	}
}

func parse(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("capacity", flag.ContinueOnError)
	parts := f.String("parts", "million,holds,idle", "what to measure")
	storages := f.String("storage", "sqlite,rocksdb", "engines for the part million; one that the binary lacks is skipped, and said")
	f.StringVar(&s.dir, "dir", "", "parent of the temporary folder: a real disk with 15 GB free (default $TMPDIR)")
	f.IntVar(&s.voters, "voters", 3, "voters of every cluster")
	f.IntVar(&s.keys, "keys", 1_000_000, "keys of the part million")
	f.IntVar(&s.valueSize, "value-size", 1024, "bytes of each value")
	f.IntVar(&s.holds, "holds", 1000, "locks of the part holds")
	f.DurationVar(&s.watch, "watch", 20*time.Second, "how long idle agents are watched")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	s.parts, s.storages = strings.Split(*parts, ","), strings.Split(*storages, ",")
	for _, p := range s.parts {
		if !slices.Contains([]string{"million", "holds", "idle"}, p) {
			return s, fmt.Errorf("there is no part %q", p)
		}
	}
	if s.voters < 1 || s.keys < writeBatch || s.valueSize < 16 || s.holds < 1 || s.watch < time.Second {
		return s, errors.New("a number is too small to measure anything")
	}
	return s, nil
}

// run measures the parts that were asked for, in a fixed order.
func run(ctx context.Context, s settings, r *report) error {
	build, err := os.MkdirTemp("", "kahu-capacity-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(build)
	binary, err := cluster.Build(ctx, build)
	if err != nil {
		return err
	}
	rocksDB, err := cluster.HaveRocksDB(ctx, binary)
	if err != nil {
		return err
	}
	if slices.Contains(s.parts, "million") {
		for _, storage := range s.storages {
			if storage == "rocksdb" && !rocksDB {
				r.section("a million keys on rocksdb")
				r.note("SKIPPED: the binary was built without RocksDB (apt-get install librocksdb-dev)")
				continue
			}
			if err := million(ctx, s, r, binary, storage); err != nil {
				return fmt.Errorf("a million keys on %s: %w", storage, err)
			}
		}
	}
	if slices.Contains(s.parts, "holds") {
		if err := holds(ctx, s, r, binary); err != nil {
			return fmt.Errorf("%d holds: %w", s.holds, err)
		}
	}
	if slices.Contains(s.parts, "idle") {
		if err := idle(ctx, s, r, binary); err != nil {
			return fmt.Errorf("idle agents: %w", err)
		}
	}
	return nil
}
