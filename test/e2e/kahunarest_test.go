package e2e_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// poolClient is a client of Kahuna over REST with several endpoints, here the
// agents' sockets: what fails to connect or to answer is asked again elsewhere, as
// Kahuna's clients do, and so is "must retry".
type poolClient struct {
	clients []*http.Client
	next    int
	owner   string
	retried int // how often
}

func newPoolClient(t *testing.T, c *cluster.Cluster, id int) *poolClient {
	p := &poolClient{next: id, owner: base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "owner-%d", id))}
	for _, a := range c.Agents {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Socket)
		}}
		t.Cleanup(transport.CloseIdleConnections)
		p.clients = append(p.clients, &http.Client{Transport: transport})
	}
	return p
}

// answer is what the routes below say.
type answer struct {
	Type         int   `json:"type"`
	FencingToken int64 `json:"fencingToken"`
	Allocation   struct {
		Start int64 `json:"start"`
	} `json:"allocation"`
	Sequence struct {
		CurrentValue int64 `json:"currentValue"`
	} `json:"sequence"`
}

func (p *poolClient) once(ctx context.Context, path, body string) (answer, error) {
	client := p.clients[p.next%len(p.clients)]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kahuna/v1/"+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	if res.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("status %d: %s", res.StatusCode, data)
	}
	var a answer
	return a, json.Unmarshal(data, &a)
}

// ask asks until somebody has decided; mustRetry is the code that says nobody did.
func (p *poolClient) ask(ctx context.Context, mustRetry int, path, body string) (answer, error) {
	for {
		a, err := p.once(ctx, path, body)
		if err == nil && a.Type != mustRetry {
			return a, nil
		}
		if gone := ctx.Err(); gone != nil {
			return answer{}, fmt.Errorf("%w (last: %w, type %d)", context.Cause(ctx), err, a.Type)
		}
		p.retried++
		p.next++
		time.Sleep(10 * time.Millisecond) // as the clients do before they ask again
	}
}

// REST through the deaths of leaders: what is asked again under one idempotency key
// is done once, and no two holders of a lock have one fencing token.
func TestKahunaRESTThroughLeaderChanges(t *testing.T) {
	ctx := bounded(t, 2*time.Minute)
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	const name, workers = "through-leaders", 8
	first := newPoolClient(t, c, 0)
	if a, err := first.ask(ctx, 5, "sequences/create", `{"name":"`+name+`"}`); err != nil || a.Type != 0 {
		t.Fatal(a, err)
	}

	var mu sync.Mutex
	values, tokens := map[int64]string{}, map[int64]string{}
	retried := 0
	done := make(chan struct{})
	counted := func() int { mu.Lock(); defer mu.Unlock(); return len(values) }
	var all sync.WaitGroup
	for id := range workers {
		p := newPoolClient(t, c, id)
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					mu.Lock()
					retried += p.retried
					mu.Unlock()
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", id, n)
				a, err := p.ask(ctx, 5, "sequences/next", fmt.Sprintf(`{"name":%q,"idempotencyKey":%q}`, name, key))
				if err != nil || a.Type != 0 {
					t.Errorf("next %s: type %d, %v", key, a.Type, err)
					return
				}
				lock := fmt.Sprintf(`{"resource":%q,"owner":%q,"expiresMs":60000,"durability":1}`, name, p.owner)
				l, err := p.ask(ctx, 101, "locks/try-lock", lock)
				if err != nil || l.Type > 1 {
					t.Errorf("try-lock by %d: type %d, %v", id, l.Type, err)
					return
				}
				mu.Lock()
				if other, twice := values[a.Allocation.Start]; twice {
					t.Errorf("the value %d was given to %s and to %s", a.Allocation.Start, other, key)
				}
				values[a.Allocation.Start] = key
				if other, twice := tokens[l.FencingToken]; twice && l.Type == 0 {
					t.Errorf("the fencing token %d was given to %s and to %s", l.FencingToken, other, key)
				}
				if l.Type == 0 {
					tokens[l.FencingToken] = key
				}
				mu.Unlock()
				if l.Type == 0 {
					before := p.retried
					u, err := p.ask(ctx, 101, "locks/try-unlock", lock)
					// An unlock that was asked again may have been done the first time: the
					// lock is then nobody's (102), or already another worker's (103).
					done := u.Type == 3 || p.retried > before && (u.Type == 102 || u.Type == 103)
					if err != nil || !done {
						t.Errorf("unlock by %d, asked %d times: type %d, %v", id, p.retried-before+1, u.Type, err)
						return
					}
				}
			}
		})
	}
	for range 2 {
		leader, err := c.Leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		progress := func(what string) {
			from := counted()
			if err := cluster.Wait(ctx, what, func(context.Context) (bool, error) { return t.Failed() || counted() >= from+50, nil }); err != nil {
				t.Fatal(err)
			}
		}
		progress("50 values before the leader dies")
		if err := leader.Kill(); err != nil {
			t.Fatal(err)
		}
		progress("50 values without it")
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		if err := leader.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	all.Wait()
	if t.Failed() {
		return
	}
	a, err := first.ask(ctx, 5, "sequences/get", `{"name":"`+name+`"}`)
	if err != nil || a.Sequence.CurrentValue != int64(len(values)) {
		t.Errorf("%d values were given out, and the sequence is at %d (%v): one was consumed twice, or lost", len(values), a.Sequence.CurrentValue, err)
	}
	if retried == 0 {
		t.Error("nothing was asked again: the load did not meet the deaths")
	}
	t.Logf("%d values, %d grants, asked again %d times", len(values), len(tokens), retried)
}
