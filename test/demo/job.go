package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The environment of a job, besides what kahu exec sets.
const (
	ledgerVariable = "DEMO_LEDGER" // path of the ledger's socket
	busyVariable   = "DEMO_BUSY"   // path of a file that one job at a time can flock
	workerVariable = "DEMO_WORKER"
	kahuVariable   = "DEMO_KAHU" // path of the binary
)

// Exit codes of a job, above those that kahu exec has of its own.
const (
	exitAllDone = 10
	exitDoubled = 11
)

// sequence names the invoice numbers.
const sequence = "invoice-number"

// job does one line of the input. It runs under kahu exec: it owns the lock.
func job(ctx context.Context) int {
	// The kernel gives this lock back when the process is dead. If it is
	// taken, another holder still lives, which is what must never happen.
	busy, err := os.OpenFile(os.Getenv(busyVariable), os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "job:", err)
		return 1
	}
	defer busy.Close()
	if err := unix.Flock(int(busy.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		fmt.Fprintln(os.Stderr, "job: ANOTHER HOLDER LIVES:", err)
		return exitDoubled
	}
	more, err := processOne(ctx)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "job:", err)
		return 1
	case !more:
		return exitAllDone
	}
	return 0
}

// processOne reports whether there was a line to do.
func processOne(ctx context.Context) (bool, error) {
	token, err := strconv.ParseInt(os.Getenv("KAHU_FENCING_TOKEN"), 10, 64)
	if err != nil {
		return false, fmt.Errorf("KAHU_FENCING_TOKEN: %w", err)
	}
	worker := os.Getenv(workerVariable)
	var next struct {
		Line string `json:"line"`
	}
	if err := askLedger(ctx, os.Getenv(ledgerVariable), "begin", begun{Token: token, Worker: worker}, &next); err != nil {
		return false, err
	}
	if next.Line == "" {
		return false, nil
	}
	id, _, _ := strings.Cut(next.Line, ",")
	// The line is the idempotency key: whoever does a line again, because the
	// one before died halfway, gets the same number again.
	out, err := exec.CommandContext(ctx, os.Getenv(kahuVariable), "seq", "next", sequence, "--idempotency-key", id).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return false, fmt.Errorf("kahu seq next: %w: %s", err, exit.Stderr)
		}
		return false, fmt.Errorf("kahu seq next: %w", err)
	}
	number, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return false, fmt.Errorf("kahu seq next said %q: %w", out, err)
	}
	return true, askLedger(ctx, os.Getenv(ledgerVariable), "append", entry{Line: next.Line, Number: number, Token: token, Worker: worker}, nil)
}

// errStale is the ledger's refusal of a fencing token.
var errStale = errors.New("the ledger refused the fencing token")

// askLedger posts body to the ledger on a socket and decodes the answer.
func askLedger(ctx context.Context, socket, what string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://ledger/"+what, bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("asking the ledger to %s: %w", what, err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return fmt.Errorf("reading the ledger's answer: %w", err)
	case response.StatusCode == http.StatusConflict:
		return fmt.Errorf("%w: %s", errStale, bytes.TrimSpace(got))
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("the ledger answers %s: %s", response.Status, bytes.TrimSpace(got))
	case answer == nil:
		return nil
	}
	return json.Unmarshal(got, answer)
}
