package agent_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
)

// rewriter writes at one host after the other, but not at the one that is being
// restarted, and fails the test when one is not acknowledged.
type rewriter struct {
	f       *fleet
	mu      sync.Mutex
	away    *host
	written int
}

func (w *rewriter) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		h := w.f.hosts[n%len(w.f.hosts)]
		w.mu.Lock() // a restart waits for the write, and the next write for the restart to be marked
		if h == w.away {
			w.mu.Unlock()
			continue
		}
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		_, err := h.client.KVSet(one, "moving", []byte(fmt.Sprint(n)), client.WriteOptions{})
		cancel()
		w.written++
		w.mu.Unlock()
		if err != nil {
			w.f.t.Errorf("a write at %s: %v", h.name, err)
			return
		}
	}
}

func (w *rewriter) leaveOut(h *host) (written int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = h
	return w.written
}

// Hosts move from the secret to an own PKI, and back, one restart after the other,
// while writes go on and locks are held: each agent takes both kinds for a while.
func TestMovingBetweenSecretAndPKI(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	f := newFleet(t, 4, 1)
	pki := map[*host]config.PKI{}
	for _, h := range f.hosts {
		dir := filepath.Dir(h.cfg.SecretFile)
		h.cfg.PKI = config.PKI{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt"),
			VoterName: "kahu-voter", ProxyName: "kahu-proxy"}
		ca.issue(t, h.cfg, pkiRole(f, h), time.Now().Add(time.Hour))
		pki[h], h.cfg.PKI = h.cfg.PKI, config.PKI{}
	}
	bySecret := func(*host) config.PKI { return config.PKI{} }
	byPKI := func(h *host) config.PKI { return pki[h] }
	both := func(h *host) config.PKI {
		p := pki[h]
		p.AcceptSecret = true
		return p
	}
	f.startAll()
	const all = "h1=voter h2=voter h3=voter h4=proxy"
	for _, h := range f.hosts {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == all })
	}
	var holds []*client.Hold
	for _, h := range []*host{f.hosts[0], f.hosts[3]} {
		c := client.New(client.Options{Socket: h.cfg.Socket}) // outlives the restarts
		t.Cleanup(func() { _ = c.Close() })
		holds = append(holds, acquire(t, c, "of "+h.name))
	}
	tokens := []int64{holds[0].Token(), holds[1].Token()}

	w := &rewriter{f: f}
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() { w.run(ctx) })
	defer func() { stop(); writing.Wait() }()
	restart := func(h *host, kind config.PKI) {
		t.Helper()
		before := w.leaveOut(h)
		h.stop()
		h.cfg.PKI = kind
		f.start(h)
		f.await(h.name+" is taken in again", func() bool {
			_, err := h.client.KVGet(short(t), "moving", client.ReadOptions{})
			return err == nil && f.roles(h) == all
		})
		if after := w.leaveOut(nil); after == before {
			t.Errorf("nothing was written while %s was away: this shows nothing", h.name)
		}
		for i, hold := range holds {
			if stillHeld(t, hold); hold.Token() != tokens[i] {
				t.Fatalf("the token of a hold was %d and is %d", tokens[i], hold.Token())
			}
		}
	}
	for _, step := range []func(*host) config.PKI{both, byPKI, both, bySecret} {
		for _, h := range f.hosts {
			restart(h, step(h))
		}
	}
	stop()
	writing.Wait()
	// Whoever has only the kind that is not taken any more gets nothing.
	proxy := f.hosts[3]
	proxy.stop()
	proxy.cfg.PKI = byPKI(proxy)
	f.start(proxy)
	if _, err := proxy.client.KVGet(short(t), "moving", client.ReadOptions{}); err == nil {
		t.Error("a certificate is taken by agents that have no PKI")
	}
}

// list puts a revocation list of a with these serials where cfg looks for it.
func (a *authority) list(t *testing.T, cfg config.Config, serials ...*big.Int) {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.PKI.CRL+".new", der, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(cfg.PKI.CRL+".new", cfg.PKI.CRL); err != nil {
		t.Fatal(err)
	}
}

// A certificate that is revoked costs its bearer what it has open, at once, and
// nobody else anything; with another one it is taken in again.
func TestARevokedAgentGetsNothing(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	f, logs := newPKIFleet(t, 4, ca)
	for _, h := range f.hosts {
		h.cfg.PKI.CRL = filepath.Join(filepath.Dir(h.cfg.PKI.CA), "crl")
		ca.list(t, h.cfg)
	}
	f.startAll()
	proxy := f.hosts[3]
	f.await("the proxy is answered", func() bool {
		_, err := proxy.client.KVSet(short(t), "k", []byte("v"), client.WriteOptions{})
		return err == nil
	})
	hold := acquire(t, f.hosts[0].client, "of a voter")
	pair, err := tls.LoadX509KeyPair(proxy.cfg.PKI.Cert, proxy.cfg.PKI.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range f.hosts {
		ca.list(t, h.cfg, pair.Leaf.SerialNumber)
	}
	f.await("the proxy is refused", func() bool {
		_, err := proxy.client.KVSet(short(t), "k", []byte("v"), client.WriteOptions{})
		return err != nil
	})
	f.await("the proxy says why", func() bool { return logs[proxy].count("level=ERROR", "certificate of this agent was revoked") == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, h := range f.hosts[:3] {
		if _, err := h.client.KVSet(ctx, "k", []byte(h.name), client.WriteOptions{}); err != nil {
			t.Errorf("%s: %v", h.name, err)
		}
	}
	ca.issue(t, proxy.cfg, "kahu-proxy", time.Now().Add(time.Hour))
	f.await("the proxy is answered with another certificate", func() bool {
		_, err := proxy.client.KVSet(short(t), "k", []byte("v"), client.WriteOptions{})
		return err == nil
	})
	stillHeld(t, hold)
}

// A voter whose certificate was revoked gets nothing of the log any more, over
// connections that the leader has made to it either.
func TestARevokedVoterGetsNothing(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	f, _ := newPKIFleet(t, 4, ca) // the last one is a proxy
	for _, h := range f.hosts {
		h.cfg.PKI.CRL = filepath.Join(filepath.Dir(h.cfg.PKI.CA), "crl")
		ca.list(t, h.cfg)
	}
	f.startAll()
	var leader string
	f.await("all follow a leader", func() bool {
		for _, h := range f.hosts[:3] {
			s, err := h.client.Status(t.Context())
			if err != nil || !s.Ready || s.Leader == "" {
				return false
			}
			leader = s.Leader
		}
		return true
	})
	var revoked *host
	var others []*host
	for _, h := range f.hosts[:3] {
		s, err := h.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if revoked == nil && s.Node != leader {
			revoked = h
		} else {
			others = append(others, h)
		}
	}
	pair, err := tls.LoadX509KeyPair(revoked.cfg.PKI.Cert, revoked.cfg.PKI.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range others { // it does not hear of it itself, and keeps what is open
		ca.list(t, h.cfg, pair.Leaf.SerialNumber)
	}
	f.await("the others do not hear it", func() bool {
		for _, h := range others {
			m, err := h.client.ClusterMembers(t.Context())
			if err != nil {
				return false
			}
			for _, x := range m.Members {
				if x.Host == revoked.name && x.SilentMS != nil && *x.SilentMS > 2000 {
					return true
				}
			}
		}
		return false
	})
	index := func(h *host) uint64 {
		s, err := h.client.Status(t.Context())
		if err != nil || s.Voter == nil {
			t.Fatalf("%s: %+v, %v", h.name, s, err)
		}
		return s.Voter.AppliedIndex
	}
	before := index(revoked)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, h := range others {
		if _, err := h.client.KVSet(ctx, "k", []byte(h.name), client.WriteOptions{}); err != nil {
			t.Errorf("%s: %v", h.name, err)
		}
	}
	if after := index(revoked); after != before {
		t.Errorf("it has followed from index %d to %d", before, after)
	}
}
