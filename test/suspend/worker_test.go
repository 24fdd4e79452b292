package suspend_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
)

// workerVariable has this program, in the machine, work instead of test. Its value
// says what: "beat" is the command under a guard, "read" asks for the key again
// and again.
const workerVariable = "KAHU_SUSPEND_WORKER"

// key is what a worker reads.
const key = "key"

// printed is the machine's file to which workers and guards print. Each line is
// written at once.
const printed = "/tmp/printed"

func worker(what string) int {
	out, err := os.OpenFile(printed, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch what {
	case "beat":
		err = beats(out)
	case "read":
		err = reads(out)
	default:
		err = fmt.Errorf("%s: no work is called %q", workerVariable, what)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// beats tells of every instant at which the command ran, until it is ended. It
// stays on when asked to end: only SIGKILL is sure.
func beats(out *os.File) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	for {
		if _, err := fmt.Fprintf(out, "beat %s %d\n", os.Getenv("KAHU_FENCING_TOKEN"), boottime()); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond) // leaves the machine's only processor to others
	}
}

// reads tells when each read began, when it ended, and what was read.
func reads(out *os.File) error {
	c := client.New(client.Options{Socket: os.Getenv("KAHU_SOCKET")})
	defer c.Close()
	for {
		began := boottime()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		entry, err := c.KVGet(ctx, key, client.ReadOptions{})
		cancel()
		value := string(entry.Value)
		if err != nil {
			value = "none"
		}
		if _, err := fmt.Fprintf(out, "read %d %d %s\n", began, boottime(), value); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // likewise
	}
}

// boottime is the host's time since its boot, its sleep included, in nanoseconds.
func boottime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err) // Linux has it since 2.6.39
	}
	return now.Nano()
}

// A line is one that a worker printed: its word, times and value.
type line struct {
	at    []time.Duration
	value string
}

// lines are those of a worker with this first word.
func (m *machine) lines(ctx context.Context, word string) (found []line) {
	m.t.Helper()
	for text := range strings.Lines(m.do(ctx, "cat "+printed)) {
		fields := strings.Fields(text)
		if len(fields) < 3 || fields[0] != word {
			continue
		}
		l := line{value: fields[1]}
		times := fields[2:]
		if word == "read" {
			l.value, times = fields[len(fields)-1], fields[1:len(fields)-1]
		}
		for _, field := range times {
			ns, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				m.t.Fatalf("the machine printed %q: %v", text, err)
			}
			l.at = append(l.at, time.Duration(ns))
		}
		found = append(found, l)
	}
	return found
}
