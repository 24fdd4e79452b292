// Command demo shows kahu at work, and checks it.
//
// Three voters and a proxy run on loopback, in a temporary folder. Under each
// of them two workers take jobs with kahu exec: one at a time owns the lock,
// takes the next line of testdata/invoices.csv that has no invoice yet, gets
// its number from a sequence, and appends it to a ledger that refuses stale
// fencing tokens. Meanwhile the demo kills -9 the leader, starts it again, and
// kills -9 a worker that owns the lock.
//
// It ends with 0 when every line was invoiced exactly once, no number and no
// token was given out twice, and no two owners ever lived at once.
//
//	go run ./test/demo
package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

//go:embed testdata/invoices.csv
var invoices string

// demoLimit is far more than the demo needs; when it is over, something hangs.
const demoLimit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 2 && os.Args[1] == "job" {
		os.Exit(job(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, demoLimit, fmt.Errorf("the demo did not end within %s", demoLimit))
	defer cancel()
	if err := tell(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo FAILED:", err)
		os.Exit(1)
	}
}

// inputLines are the lines of the shipped file, without its header.
func inputLines() []string {
	return strings.Split(strings.TrimSpace(invoices), "\n")[1:]
}
