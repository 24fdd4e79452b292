package enginetest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/storage"
)

const (
	childDirEnv = "KAHU_ENGINETEST_DIR"
	killRounds  = 15
	indexKey    = "index"
)

func childRequested() bool { return os.Getenv(childDirEnv) != "" }

// killBatch is batch n of the test: a fixed function of n, with a row that
// counts, as the state machine writes its applied index.
func killBatch(n uint64) *storage.Batch {
	r := rand.New(rand.NewPCG(n, 42))
	var b storage.Batch
	for range 1 + r.IntN(60) {
		key := fmt.Appendf(nil, "row %03d", r.IntN(300))
		if r.IntN(4) == 0 {
			b.Delete(key)
			continue
		}
		value := make([]byte, r.IntN(300))
		for i := range value {
			value[i] = byte(r.Uint32())
		}
		b.Put(key, value)
	}
	b.Put([]byte(indexKey), binary.BigEndian.AppendUint64(nil, n))
	return &b
}

func readIndex(e storage.Engine) (uint64, error) {
	v, err := e.Get([]byte(indexKey))
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("index row of %d bytes", len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// child writes batch after batch, and says so, until it is killed. Lines:
// "O n" opened at n, "W n" written, "S n" synced.
func child(open Opener) {
	err := func() error {
		e, err := open(os.Getenv(childDirEnv))
		if err != nil {
			return err
		}
		n, err := readIndex(e)
		if err != nil {
			return err
		}
		fmt.Printf("O %d\n", n)
		r := rand.New(rand.NewPCG(n, uint64(os.Getpid())))
		for {
			n++
			if err := e.Write(killBatch(n)); err != nil {
				return err
			}
			fmt.Printf("W %d\n", n)
			if r.IntN(6) != 0 {
				continue
			}
			if err := e.Sync(); err != nil {
				return err
			}
			if _, err := fmt.Printf("S %d\n", n); err != nil {
				return err // the parent is gone
			}
		}
	}()
	fmt.Printf("E %v\n", err)
	os.Exit(3)
}

// testKill lets a child write, kills it, and looks at what it left.
func testKill(t *testing.T, open Opener) {
	name := strings.TrimSuffix(t.Name(), "/Kill")
	dir, seed := t.TempDir(), uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	want, at := model{}, uint64(0) // the state after batch at
	for round := range killRounds {
		written, synced := runChild(t, name, dir, 1+r.IntN(80))
		e, err := open(dir)
		if err != nil {
			t.Fatalf("round %d: open after kill -9: %v", round, err)
		}
		n, err := readIndex(e)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if n < synced || n < at || n > written+1 {
			t.Fatalf("round %d: opened at batch %d; want at least %d (synced) and %d (seen before), at most %d (under way)",
				round, n, synced, at, written+1)
		}
		for ; at < n; at++ {
			want.apply(killBatch(at + 1))
		}
		mustEqual(t, fmt.Sprintf("round %d: rows at batch %d", round, n), collect(t, e.Scan(nil, nil)), want.rows(nil, nil))
		// What was seen must stay: the next child goes on from here.
		if err := errors.Join(e.Sync(), e.Close()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if at == 0 {
		t.Fatal("no batch survived any round: the test saw nothing")
	}
	t.Logf("%d batches", at)
}

// runChild kills the child some time after its given acknowledgement.
func runChild(t *testing.T, name, dir string, acks int) (written, synced uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), childDirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("read from the child: %v", err)
			}
			break // what is cut off was not acknowledged
		}
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(rest, 10, 64)
		if kind == "E" || err != nil {
			t.Errorf("the child failed: %s", line)
			break
		}
		switch kind {
		case "O", "W":
			written = n
		case "S":
			synced = n
		}
		// The child goes on while the signal is on its way, so it dies anywhere.
		if acks--; acks <= 0 && !killed {
			killed = true
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Process.Kill()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed: %v", err)
	}
	return written, synced
}
