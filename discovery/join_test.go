package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/discovery"
)

// Hosts that are switched off swallow what is sent to them. Whoever else comes and
// goes is heard of meanwhile, and found.
func TestSilentAddressesHoldUpNothing(t *testing.T) {
	n := newNetwork(t)
	c := n.add("c")
	var silent []string
	for i := range 7 {
		silent = append(silent, fmt.Sprintf("192.0.2.%d:7350", i+1))
	}
	ca, a := n.config("a", append(silent, c.address)...)
	release := make(chan struct{})
	dial := ca.Dial
	ca.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.") {
			<-release
			return nil, context.DeadlineExceeded
		}
		return dial(ctx, address)
	}
	n.start(ca, a)
	t.Cleanup(func() { close(release) }) // before a is closed
	awaitAlive(t, a, "a", "c")
	b := n.add("b", a.address)
	awaitAlive(t, a, "a", "b", "c")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	awaitAlive(t, a, "a", "c")
}

// Somebody takes the stream and says nothing, as a stopped process does.
func TestCloseDoesNotWaitForWhoSaysNothing(t *testing.T) {
	n := newNetwork(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	c, a := n.config("a", mute.Addr().String())
	c.Profile = discovery.WAN // a stream may take 30 s
	n.start(c, a)
	conn, err := mute.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // a has told, and waits
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	closed := make(chan struct{})
	ended.Go(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		close(closed)
	})
	defer ended.Wait()
	await(t, "a has closed", func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
}

// remember writes a list of peers as an agent has it on its disk.
func remember(t *testing.T, dir string, agents []map[string]any) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"format": 1, "agents": agents})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "peers.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remembered(t *testing.T, dir string) (nodes []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "peers.json"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := discovery.ParsePeers(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

// Thousands of pods came and went. A voter among them, heard of before all others,
// is found in the first round, and is not what is forgotten when there are too many.
func TestAVoterIsFoundAmongThousandsThatAreGone(t *testing.T) {
	n := newNetwork(t)
	b := n.add("b")
	ca, a := n.config("a")
	ca.Dir = t.TempDir()
	today := time.Now().Truncate(24 * time.Hour).Unix()
	list := []map[string]any{{"node": "b", "address": b.address, "role": "voter", "seen": today - 20*86400}}
	for i := range 3000 {
		list = append(list, map[string]any{"node": fmt.Sprintf("pod%04d", i), "address": fmt.Sprintf("192.0.2.%d:%d", i%250+1, i+1), "role": "proxy", "seen": today})
	}
	remember(t, ca.Dir, list)
	// The others answer once b was asked: it is among those that are asked at first.
	asked := make(chan struct{})
	ask := sync.OnceFunc(func() { close(asked) })
	dial := ca.Dial
	ca.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.") {
			<-asked
			return nil, fmt.Errorf("%s: no route to host", address)
		}
		ask()
		return dial(ctx, address)
	}
	n.start(ca, a)
	t.Cleanup(ask) // before a is closed
	awaitAlive(t, a, "a", "b")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if nodes := remembered(t, ca.Dir); len(nodes) > 2048 || !slices.Contains(nodes, "b") {
		t.Errorf("%d agents are remembered, b among them: %t", len(nodes), slices.Contains(nodes, "b"))
	}
}

// A host that was off for a year, or whose clock says so, has nothing but its list.
func TestAListIsNotForgottenForItsAge(t *testing.T) {
	n := newNetwork(t)
	b := n.add("b")
	ca, a := n.config("a")
	ca.Dir = t.TempDir()
	remember(t, ca.Dir, []map[string]any{
		{"node": "b", "address": b.address, "role": "voter", "seen": time.Now().Add(-365 * 24 * time.Hour).Unix()}})
	n.start(ca, a)
	awaitAlive(t, a, "a", "b")
}

// Each of those that are gone is asked again now and then, whoever else is gone.
func TestEachAddressHasItsTurn(t *testing.T) {
	n := newNetwork(t)
	ca, a := n.config("a")
	ca.Dir = t.TempDir()
	var list []map[string]any
	for i := range 60 {
		list = append(list, map[string]any{"node": fmt.Sprintf("n%02d", i), "address": fmt.Sprintf("192.0.2.%d:7350", i+1),
			"role": []string{"voter", "proxy"}[i%2], "seen": time.Now().Unix()})
	}
	remember(t, ca.Dir, list)
	var mu sync.Mutex
	asked := map[string]int{}
	ca.Dial = func(_ context.Context, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[address]++
		return nil, fmt.Errorf("%s: no route to host", address)
	}
	n.start(ca, a)
	await(t, "all were asked twice", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(asked) == 60 && !slices.ContainsFunc(list, func(r map[string]any) bool { return asked[r["address"].(string)] < 2 })
	})
}

// Nothing that becomes of the files of gossip ends an agent, or its gossip.
func TestTheDirectoryMayGo(t *testing.T) {
	n := newNetwork(t)
	c, a := n.config("a")
	c.Dir = filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Serf's own list, as agents kept it: serf panics when it cannot replace one that
	// has grown to 128 KiB.
	const line = "# as an agent writes in months, a line for each host that comes or goes\n"
	snapshot := filepath.Join(c.Dir, "serf.snapshot")
	if err := os.WriteFile(snapshot, []byte(strings.Repeat(line, (128<<10-200)/len(line))), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(c, a)
	if _, err := os.Stat(snapshot); err == nil {
		t.Error("a file that nobody reads any more stays")
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	all := []string{"a"}
	for i := range 8 {
		all = append(all, fmt.Sprint("b", i))
		n.add(all[i+1], a.address)
		awaitAlive(t, a, all...)
	}
	const said = "was not stored"
	await(t, "it is said", func() bool { return strings.Contains(a.log.String(), said) })
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	await(t, "it is stored when it can be", func() bool {
		_, err := os.Stat(filepath.Join(c.Dir, "peers.json"))
		return err == nil
	})
	if got := strings.Count(a.log.String(), said); got != 1 {
		t.Errorf("said %d times", got)
	}
}
