package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/pace"
)

// expiryLeft is the part of a certificate's life that has to be left, or it is told
// that nobody renews it: a PKI renews when a third is left.
const expiryLeft = 6

// loadPKI reads the certificates of the own PKI.
func loadPKI(cfg config.Config) (*secret.PKI, error) {
	return secret.LoadPKI(secret.PKIOptions{CertFile: cfg.PKI.Cert, KeyFile: cfg.PKI.Key, CAFile: cfg.PKI.CA, CRLFile: cfg.PKI.CRL,
		VoterName: cfg.PKI.VoterName, ProxyName: cfg.PKI.ProxyName, Now: time.Now})
}

// checkPKI reads the certificates and refuses those that do not fit the role.
func checkPKI(cfg config.Config) (*secret.PKI, error) {
	pki, err := loadPKI(cfg)
	if err == nil && cfg.Role != config.Proxy {
		_, err = pki.VoterServerTLS()
		if err != nil {
			err = fmt.Errorf("%w; or start this agent with --role proxy", err)
		}
	}
	return pki, err
}

// settleByCertificate makes an agent with role auto a proxy when its certificate
// says so.
func settleByCertificate(cfg config.Config) (config.Config, error) {
	pki, err := loadPKI(cfg)
	if err != nil || pki.IsVoter() {
		return cfg, nil // what is wrong with it is said when it is needed
	}
	if len(cfg.Join)+len(cfg.JoinClouds) == 0 {
		return cfg, &UnusableError{fmt.Errorf("%s is a proxy's certificate, and a proxy asks the voters: name at least one of them with --join", cfg.PKI.Cert)}
	}
	cfg.Role, cfg.BootstrapExpect = config.Proxy, 0
	return cfg, nil
}

// pkiSecurity is how connections between agents are made safe by an own PKI.
func pkiSecurity(pki *secret.PKI, node string, isVoter bool) (link.Security, error) {
	s := link.Security{Node: node, Server: pki.ServerTLS(), Client: pki.ClientTLS(),
		Identify: func(cs tls.ConnectionState) (link.Identity, error) {
			voter, err := pki.Identify(cs)
			return link.Identity{Voter: voter}, err
		}}
	if !isVoter {
		return s, nil
	}
	var errs [2]error
	s.RaftServer, errs[0] = pki.VoterServerTLS()
	s.RaftClient, errs[1] = pki.VoterClientTLS()
	return s, errors.Join(errs[:]...)
}

// security is how connections between agents are made safe: by certificates of the
// own PKI where there is one, else by those derived from the secret; by both while
// agents move from the one to the other.
func (a *agent) security(keys *secret.Keys, pki *secret.PKI) (s link.Security, err error) {
	isVoter := a.cfg.Role != config.Proxy
	if pki == nil {
		return security(keys, a.identity.node, isVoter)
	}
	if s, err = pkiSecurity(pki, a.identity.node, isVoter); err != nil || !a.cfg.PKI.AcceptSecret {
		return s, err
	}
	derived, err := security(keys, a.identity.node, isVoter)
	s.Other = &derived
	return s, err
}

// secure makes connections from now on by these; nil: by what is in use.
func (a *agent) secure(keys *secret.Keys, pki *secret.PKI) error {
	a.identity.replacing.Lock()
	defer a.identity.replacing.Unlock()
	keys, pki = cmp.Or(keys, a.identity.Keys()), cmp.Or(pki, a.identity.PKI())
	s, err := a.security(keys, pki)
	if err != nil {
		return err
	}
	a.identity.keys.Store(keys)
	a.identity.pki.Store(pki)
	a.quorum.listener.SetSecurity(s)
	a.quorum.dialer.SetSecurity(s)
	return nil
}

// pkiFiles follows the files of an own PKI. It belongs to one goroutine.
type pkiFiles struct {
	a      *agent
	seen   []os.FileInfo // of the files that were taken over
	said   string        // why changed files are not used, said last
	warned string        // serial number and state of the certificate that was told
	oldAt  time.Time     // when the list was due that was told to be old
}

func newPKIFiles(a *agent) *pkiFiles {
	f := &pkiFiles{a: a}
	f.seen, _ = f.stat() // what cannot be looked at is seen as changed
	return f
}

func (f *pkiFiles) stat() ([]os.FileInfo, error) {
	var infos []os.FileInfo
	paths := []string{f.a.cfg.PKI.Cert, f.a.cfg.PKI.Key, f.a.cfg.PKI.CA}
	if crl := f.a.cfg.PKI.CRL; crl != "" {
		paths = append(paths, crl)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// look takes over files that have changed, and tells of a certificate that nobody
// renews.
func (f *pkiFiles) look(now time.Time) {
	infos, err := f.stat()
	if err == nil && !sameFiles(infos, f.seen) {
		err = f.a.followPKI()
		if err == nil {
			f.seen = infos
		}
	}
	switch {
	case err == nil:
		f.said = ""
	case err.Error() != f.said:
		f.said = err.Error()
		f.a.log.Warn("the certificates of the own PKI have changed and cannot be used: those in use stay", "error", err)
	}
	f.warn(now)
}

func sameFiles(a, b []os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}

// warn tells once for each certificate that it expires soon, and that it has expired
// or was revoked, and for each list that it is old.
func (f *pkiFiles) warn(now time.Time) {
	pki := f.a.identity.PKI()
	if due := pki.ListsDue(); !due.IsZero() && now.After(due) && !due.Equal(f.oldAt) {
		f.oldAt = due
		f.a.log.Warn("the revocation list is old, and stays in force: put its next issue in its place", "file", f.a.cfg.PKI.CRL, "due", due)
	}
	left, life := pki.NotAfter().Sub(now), pki.NotAfter().Sub(pki.NotBefore())
	state := ""
	revoked := pki.Revoked()
	switch {
	case revoked != nil:
		state = "revoked"
	case now.Before(pki.NotBefore()):
		state = "early"
	case left <= 0:
		state = "expired"
	case left < life/expiryLeft:
		state = "soon"
	default:
		return
	}
	if state = pki.Serial() + " " + state; state == f.warned {
		return
	}
	f.warned = state
	attrs := []any{"file", f.a.cfg.PKI.Cert, "serial", pki.Serial(), "not_before", pki.NotBefore(), "not_after", pki.NotAfter()}
	switch {
	case revoked != nil:
		f.a.log.Error("the certificate of this agent was revoked: other agents refuse it; put a new certificate in its place", attrs...)
	case now.Before(pki.NotBefore()):
		f.a.log.Error("the certificate of this agent is not valid yet: other agents refuse new connections until then; is the clock right?", attrs...)
	case left <= 0:
		f.a.log.Error("the certificate of this agent has expired: connections that are open stay, and other agents refuse new ones; put a new certificate in its place, or set the clock", attrs...)
	default:
		f.a.log.Warn("the certificate of this agent expires soon, and nobody has renewed it", attrs...)
	}
}

// followPKI takes over what the files have now. Connections that are open stay,
// unless a CA is not trusted any more under which they may have been made.
func (a *agent) followPKI() error {
	next, err := checkPKI(a.cfg)
	if err != nil {
		return err
	}
	before := a.identity.PKI()
	if next.IsVoter() != before.IsVoter() {
		return errors.New("a voter's certificate and a proxy's cannot take each other's place while the agent runs: restart it")
	}
	if err := a.secure(nil, next); err != nil {
		return err
	}
	dropped := next.Distrusts(before)
	if dropped {
		a.quorum.drop()
	}
	a.log.Info("the certificates of the own PKI were read again", "serial", next.Serial(), "not_after", next.NotAfter(), "connections_dropped", dropped)
	return nil
}

// followFiles follows the files of the own PKI until ctx ends.
func (a *agent) followFiles(ctx context.Context) {
	files := newPKIFiles(a)
	tick := time.NewTimer(pace.Next(rotationInterval))
	defer tick.Stop()
	for {
		files.look(time.Now())
		select {
		case <-tick.C:
			tick.Reset(pace.Next(rotationInterval))
		case <-ctx.Done():
			return
		}
	}
}

var (
	expiryDesc = prometheus.NewDesc("kahu_tls_certificate_expiry_timestamp_seconds",
		"When this agent's certificate of an own PKI expires. Without an own PKI there is none: derived certificates do not expire.", nil, nil)
	issuedDesc = prometheus.NewDesc("kahu_tls_certificate_not_before_timestamp_seconds",
		"From when on this agent's certificate of an own PKI is valid.", nil, nil)
	listsDueDesc = prometheus.NewDesc("kahu_tls_crl_next_update_timestamp_seconds",
		"When the next issue of the revocation list is due; of the first, if there are several.", nil, nil)
)

// collectCertificate shows for how long the own certificate is valid.
func (a *agent) collectCertificate(ch chan<- prometheus.Metric) {
	pki := a.identity.PKI()
	if pki == nil {
		return
	}
	at := func(desc *prometheus.Desc, t time.Time) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(t.Unix()))
	}
	at(expiryDesc, pki.NotAfter())
	at(issuedDesc, pki.NotBefore())
	if due := pki.ListsDue(); !due.IsZero() {
		at(listsDueDesc, due)
	}
}
