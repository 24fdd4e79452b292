package upstream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// host is an agent as package holds would be one, with the deadline rule and nothing
// else: a session that is renewed, and workers that take locks under it.
type host struct {
	*rig
	name string
	ttl  time.Duration

	mu    sync.Mutex
	ends  time.Duration      // lease time until when its locks are safe: s + TTL
	held  map[string]*worker // by owner: told, and neither given back nor lost
	waits map[string]*worker // by owner
	next  int
}

// maxAhead is how far the clock of the server that leads may be ahead of another's.
const maxAhead = 990 * time.Millisecond

type worker struct {
	owner, lock string
	granted     chan int64 // its token
	lost        chan struct{}
}

// court judges who believes to hold what.
type court struct {
	t      *testing.T
	mu     sync.Mutex
	tokens map[string]int64
	hosts  []*host
	grants int
}

// granted is told of each grant before the worker is.
func (c *court) granted(h *host, w *worker, token int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grants++
	if last, ok := c.tokens[w.lock]; ok && token <= last {
		c.t.Errorf("%s got %s with token %d after %d", h.name, w.lock, token, last)
	}
	c.tokens[w.lock] = token
	for _, other := range c.hosts {
		other.mu.Lock()
		for _, o := range other.held {
			if o != w && o.lock == w.lock && other.now() < other.ends {
				c.t.Errorf("at %s %s/%s got %s, which %s/%s has for %s more", h.now(), h.name, w.owner, w.lock, other.name, o.owner, other.ends-other.now())
			}
		}
		other.mu.Unlock()
	}
}

// sound checks that the cluster keeps each lock that somebody here has for as long
// as he was told. mu is held.
func (h *host) sound() {
	for _, w := range h.held {
		l := h.k.lockOf(w.lock)
		// By the clock that is furthest ahead.
		if end := l.ends.Sub(h.started) - maxAhead; h.now() < h.ends && (l.owner != w.owner || end < h.ends) {
			h.Errorf("at %s %s/%s may run until %s, and the cluster's lease of %s is of %q until %s at worst", h.now(), h.name, w.owner, h.ends, w.lock, l.owner, end)
		}
	}
}

// live renews the session, and gives everything up whose deadline passes.
func (h *host) live(ctx context.Context) {
	for ctx.Err() == nil {
		s := h.now()
		attempt, cancel := context.WithTimeout(ctx, h.ttl/3)
		a, err := h.c.Do(attempt, renew(h.id(), 1))
		cancel()
		pause := 200 * time.Millisecond
		h.mu.Lock()
		if err == nil && a.GetCode() == replication.Code_CODE_OK {
			h.ends = max(h.ends, s+h.ttl)
			h.reconcile(a.GetSession())
			h.sound()
			pause = h.ttl / 4
		}
		if h.now() >= h.ends {
			for owner, w := range h.held {
				delete(h.held, owner)
				close(w.lost)
			}
		}
		h.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// reconcile takes what an answer lists for everything that there is. mu is held.
func (h *host) reconcile(s *replication.Session) {
	if !s.GetHoldsListed() {
		return
	}
	listed := map[string]bool{}
	for _, sh := range s.GetHolds() {
		listed[string(sh.GetOwner())] = true
	}
	for owner, w := range h.held {
		if !listed[owner] {
			delete(h.held, owner)
			close(w.lost)
		}
	}
}

func (h *host) id() []byte { return fmt.Appendf(nil, "%-16s", h.name)[:16] }

// listen takes events.
func (h *host) listen(ctx context.Context, c *court) {
	for ctx.Err() == nil {
		_ = h.c.Watch(ctx, h.id(), func(ev *replication.Event) {
			switch ev.GetKind() {
			case replication.Event_KIND_GRANTED:
				h.told(c, ev.GetHold())
			case replication.Event_KIND_LOST:
				h.lost(string(ev.GetHold().GetOwner()))
			default:
			}
		})
	}
}

// told hands a grant to its worker, once.
func (h *host) told(c *court, sh *replication.SessionHold) {
	owner := string(sh.GetOwner())
	h.mu.Lock()
	w := h.waits[owner]
	delete(h.waits, owner)
	if w != nil && h.now() < h.ends { // else it is too late to begin
		h.held[owner] = w
		h.sound()
	}
	h.mu.Unlock()
	if w != nil {
		c.granted(h, w, sh.GetToken())
		w.granted <- sh.GetToken()
	}
}

func (h *host) lost(owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.held[owner]; w != nil {
		delete(h.held, owner)
		close(w.lost)
	}
}

// work takes a lock, has it for a while, and gives it back.
func (h *host) work(ctx context.Context, c *court, rng *rand.Rand, lock string) {
	for ctx.Err() == nil {
		h.mu.Lock()
		h.next++
		w := &worker{owner: fmt.Sprintf("%s-%d", h.name, h.next), lock: lock, granted: make(chan int64, 1), lost: make(chan struct{})}
		h.waits[w.owner] = w
		h.mu.Unlock()
		h.ask(ctx, c, w)
		patience := time.After(time.Duration(rng.IntN(15)) * time.Second)
		select {
		case <-w.granted:
			select {
			case <-time.After(time.Duration(rng.IntN(4000)) * time.Millisecond):
			case <-w.lost:
			case <-ctx.Done():
			}
		case <-patience:
		case <-ctx.Done():
		}
		h.mu.Lock()
		delete(h.held, w.owner)
		delete(h.waits, w.owner)
		h.mu.Unlock()
		for ctx.Err() == nil {
			giving, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err := h.c.Do(giving, unlock(w.lock, []byte(w.owner)))
			cancel()
			if err == nil {
				break
			}
		}
	}
}

// ask sends LockWait until it is answered, as agent/holds does.
func (h *host) ask(ctx context.Context, c *court, w *worker) {
	for range 3 {
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		a, err := h.c.Do(asking, wait(h.id(), w.lock, []byte(w.owner)))
		cancel()
		if err == nil {
			if a.GetLockGrant().GetGranted() {
				h.told(c, &replication.SessionHold{Owner: []byte(w.owner), Token: a.GetLockGrant().GetToken()})
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// Whatever servers do to requests, no two workers believe to have a lock, by the
// rule that a renewal counts from before it was sent; tokens rise; and when the
// faults end, everybody gets on.
func TestNobodyIsDoubled(t *testing.T) {
	seeds := uint64(3)
	if os.Getenv("KAHU_SOAK") != "" {
		seeds = 400
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { doubledStory(t, seed) })
	}
}

func doubledStory(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		k := startKahuna(t, 2)
		started := time.Now()
		rng := rand.New(rand.NewPCG(seed, 1))
		often := rng.IntN(40) // of a hundred requests
		faults := []fault{retry, retryLie, errored, refused, lost, silent, late}
		dice := rand.New(rand.NewPCG(seed, 0))
		k.setPlan(func(request) fault {
			if dice.IntN(100) >= often {
				return fine
			}
			return faults[dice.IntN(len(faults))]
		})
		court := &court{t: t, tokens: map[string]int64{}}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, name := range []string{"A", "B"} {
			h := &host{rig: &rig{T: t, k: k, started: started}, name: name, ttl: 10 * time.Second, held: map[string]*worker{}, waits: map[string]*worker{}}
			h.c = h.client()
			court.mu.Lock()
			court.hosts = append(court.hosts, h)
			court.mu.Unlock()
			s := h.now()
			h.must(open(h.id(), h.ttl))
			h.ends = s + h.ttl
			running.Go(func() { h.live(ctx) })
			running.Go(func() { h.listen(ctx, court) })
			for i := range 6 {
				own := rand.New(rand.NewPCG(seed, uint64(i)+2))
				running.Go(func() { h.work(ctx, court, own, fmt.Sprint("lock", i%3)) })
			}
		}
		for range 20 { // another server leads every three seconds
			k.lead(time.Duration(rng.Int64N(int64(maxAhead))))
			time.Sleep(3 * time.Second) // virtual time
		}
		k.setPlan(nil)
		time.Sleep(15 * time.Second) // virtual time: what was late is over
		before := court.count()
		time.Sleep(30 * time.Second) // virtual time
		if after := court.count(); after-before < 10 {
			t.Errorf("half a minute after the faults there were %d grants", after-before)
		}
		cancel()
		running.Wait()
		if court.count() < 20 {
			t.Errorf("there were %d grants: the story proves nothing", court.count())
		}
	})
}

func (c *court) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grants
}
