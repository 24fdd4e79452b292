package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

// bySecret is what an agent with this secret would connect with, a voter's
// certificate or not.
func bySecret(t *testing.T, s secret.Secret) link.Security { return bySecretAs(t, "intruder", s) }

// bySecretAs is the same for any node id.
func bySecretAs(t *testing.T, node string, s secret.Secret) link.Security {
	t.Helper()
	keys, err := secret.New(s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.ClientTLS(node)
	if err != nil {
		t.Fatal(err)
	}
	return link.Security{Server: c, Client: c, RaftClient: c, Identify: func(cs tls.ConnectionState) (link.Identity, error) {
		node, voter, err := keys.Identify(cs)
		return link.Identity{Node: node, Voter: voter}, err
	}}
}

// byCertificate is the same with a certificate of an own PKI.
func byCertificate(t *testing.T, ca, trusted *authority, role string) link.Security {
	return byCertificateUntil(t, ca, trusted, role, time.Now().Add(time.Hour))
}

// byCertificateUntil is the same with one that expires then, or has.
func byCertificateUntil(t *testing.T, ca, trusted *authority, role string, until time.Time) link.Security {
	t.Helper()
	dir := t.TempDir()
	cfg := config.Config{NodeName: "intruder", PKI: config.PKI{Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), CA: filepath.Join(dir, "a")}}
	ca.issue(t, cfg, role, until, trusted)
	pki, err := secret.LoadPKI(secret.PKIOptions{CertFile: cfg.PKI.Cert, KeyFile: cfg.PKI.Key, CAFile: cfg.PKI.CA, VoterName: "kahu-voter", ProxyName: "kahu-proxy", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	c := pki.ClientTLS()
	return link.Security{Server: c, Client: c, RaftClient: c, Node: "intruder", Identify: func(cs tls.ConnectionState) (link.Identity, error) {
		voter, err := pki.Identify(cs)
		return link.Identity{Voter: voter}, err
	}}
}

// intrude tries everything that agents can ask each other, at a real one. It returns
// what was not refused, in order.
func intrude(t *testing.T, sec link.Security, node, address string) (answered string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dialer := &link.Dialer{Security: sec}
	resolve := func(string) (string, bool) { return address, true }
	pool := link.NewPool(link.PoolOptions{Dialer: dialer, Resolve: resolve})
	defer pool.Close()
	once, enough := context.WithCancel(ctx)
	defer enough()
	for _, try := range []struct {
		what string
		err  error
	}{
		{"Hello", hello(ctx, pool, address, "intruder")},
		{"Do", second(pool.Do(ctx, node, &replication.Request{Op: &replication.Request_MachineGet{MachineGet: &replication.MachineGet{}}}))},
		{"Follow", pool.Follow(once, node, func(uint64, string) { enough() })},
		{"ReadIndex", second(pool.ReadIndex(ctx, node))},
		{"Term", second(pool.Term(ctx, node))},
		{"Backup", pool.Backup(ctx, node, io.Discard)},
		{"Join", pool.Join(ctx, node, &link.JoinRequest{})},
		{"Leave", pool.Leave(ctx, node, &link.LeaveRequest{})},
		{"Pledge", second(pool.Pledge(ctx, node, &link.PledgeRequest{}))},
		{"Change", pool.Change(ctx, node, &link.ChangeRequest{Kind: link.ChangeRequest_KIND_REMOVE, Node: node})},
		{"Vote", pool.Vote(ctx, node, &link.VoteRequest{})},
	} {
		if try.err == nil || errors.Is(try.err, context.Canceled) { // enough was heard
			answered += try.what + " "
		} else if !errors.Is(try.err, link.ErrRefused) && !errors.Is(try.err, link.ErrBroken) {
			t.Errorf("%s ends with %v", try.what, try.err)
		}
	}
	if c, err := dialer.Gossip(ctx, address); err == nil {
		if _, err := c.Write([]byte("\x00nonsense")); err == nil {
			answered += "gossip "
		}
		_ = c.Close() // it has served
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	raft := link.NewRaft("intruder", link.NewListener(l, link.ListenerOptions{Security: sec}), dialer, resolve)
	defer l.Close()
	if c, err := raft.Dial("", 5*time.Second); err == nil {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		// A RequestVote that Raft would answer; TLS tells only who reads that it was refused.
		_, _ = c.Write([]byte("\x01\x80\x80"))
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			answered += "raft "
		}
		_ = c.Close() // it has served
	}
	return strings.TrimSpace(answered)
}

// hello says hello as node, which has run for longer than anybody.
func hello(ctx context.Context, pool *link.Pool, address, node string) error {
	_, _, err := pool.HelloAt(ctx, address, &link.Hello{Self: &link.Peer{Node: node}, Instance: "of an intruder", UptimeMs: 1 << 40})
	return err
}

func second[T any](_ T, err error) error { return err }

// Without the secret, or a certificate of the own PKI, an agent gets nothing; with a
// proxy's it asks, and can neither vote, nor restore, nor administer.
func TestStrangersAndProxiesAtARealAgent(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	cluster := secret.Generate()
	const asks = "Hello Do Follow ReadIndex"
	for name, c := range map[string]struct {
		pki     bool
		attacks map[string]link.Security
		want    map[string]string
	}{
		"by the secret": {false, map[string]link.Security{
			"another voter's secret": bySecret(t, secret.Generate()),
			"another proxy's secret": bySecret(t, secret.Generate().Proxy()),
			"a proxy's secret":       bySecret(t, cluster.Proxy()),
		}, map[string]string{"a proxy's secret": asks + " gossip"}},
		"by an own PKI": {true, map[string]link.Security{
			"the voter's secret":           bySecret(t, cluster),
			"a voter's name of another CA": byCertificate(t, other, own, "kahu-voter"),
			"a proxy's certificate":        byCertificate(t, own, own, "kahu-proxy"),
			"an expired voter's":           byCertificateUntil(t, own, own, "kahu-voter", time.Now().Add(-time.Minute)),
			"an expired proxy's":           byCertificateUntil(t, own, own, "kahu-proxy", time.Now().Add(-time.Minute)),
			"a proxy's name of another CA": byCertificate(t, other, own, "kahu-proxy"),
		}, map[string]string{"a proxy's certificate": asks + " gossip"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := load(t, func(f *config.File) {
				f.Bind, f.SecretFile = freeAddress(t), filepath.Join(t.TempDir(), "secret")
				if err := secret.Write(f.SecretFile, cluster); err != nil {
					t.Fatal(err)
				}
			})
			if c.pki {
				dir := t.TempDir()
				cfg.PKI = config.PKI{Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), CA: filepath.Join(dir, "a"), VoterName: "kahu-voter", ProxyName: "kahu-proxy"}
				own.issue(t, cfg, "kahu-voter", time.Now().Add(time.Hour))
			}
			start(t, cfg)
			local := client.New(client.Options{Socket: cfg.Socket})
			defer local.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			if _, err := local.KVSet(ctx, "k", []byte("v"), client.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			status, err := local.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for attack, sec := range c.attacks {
				if got := intrude(t, sec, status.Node, cfg.Bind); got != c.want[attack] {
					t.Errorf("%s: %q is answered, want %q", attack, got, c.want[attack])
				}
			}
			// With the id of the voter itself, which would end as a copy.
			itself := bySecretAs(t, status.Node, cluster.Proxy())
			if c.pki {
				itself = c.attacks["a proxy's certificate"]
				itself.Node = status.Node
			}
			pool := link.NewPool(link.PoolOptions{Dialer: &link.Dialer{Security: itself}})
			defer pool.Close()
			if err := hello(ctx, pool, cfg.Bind, status.Node); !errors.Is(err, link.ErrRefused) {
				t.Errorf("a proxy with the id of the voter gets %v", err)
			}
			// Packets of gossip, in clear text and with a key that is not the cluster's.
			udp, err := net.Dial("udp", cfg.Bind)
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			for i := range 100 {
				if _, err := fmt.Fprintf(udp, "\xf4\x20%s\x01%064d", strings.Repeat("c", 32), i); err != nil {
					t.Fatal(err)
				}
			}
			m, err := local.ClusterMembers(ctx)
			// The proxy has said hello, and nobody else was heard.
			if err != nil || len(m.Members) != 2 || m.Members[0].Node != status.Node || m.Members[0].Role != "voter" || m.Members[1].Node != "intruder" || m.Members[1].Role != "proxy" {
				t.Errorf("after all that: %+v, %v", m, err)
			}
			if _, err := local.KVSet(ctx, "k", []byte("v"), client.WriteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}
