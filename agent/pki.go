package agent

import (
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
)

// expiryLeft is the part of a certificate's life that has to be left, or it is told
// that nobody renews it: a PKI renews when a third is left.
const expiryLeft = 6

// loadPKI reads the certificates of the own PKI.
func loadPKI(cfg config.Config) (*secret.PKI, error) {
	return secret.LoadPKI(secret.PKIOptions{CertFile: cfg.PKI.Cert, KeyFile: cfg.PKI.Key, CAFile: cfg.PKI.CA,
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
// own PKI where there is one, else by those derived from the secret.
func (a *agent) security() (link.Security, error) {
	isVoter := a.cfg.Role != config.Proxy
	if pki := a.identity.PKI(); pki != nil {
		return pkiSecurity(pki, a.identity.node, isVoter)
	}
	return security(a.identity.Keys(), a.identity.node, isVoter)
}

// pkiFiles follows the files of an own PKI. It belongs to one goroutine.
type pkiFiles struct {
	a      *agent
	seen   []os.FileInfo // of the files that were taken over
	said   string        // why changed files are not used, said last
	warned string        // serial number and state of the certificate that was told
}

func newPKIFiles(a *agent) *pkiFiles {
	f := &pkiFiles{a: a}
	f.seen, _ = f.stat() // what cannot be looked at is seen as changed
	return f
}

func (f *pkiFiles) stat() ([]os.FileInfo, error) {
	var infos []os.FileInfo
	for _, path := range []string{f.a.cfg.PKI.Cert, f.a.cfg.PKI.Key, f.a.cfg.PKI.CA} {
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

// warn tells once for each certificate that it expires soon, and that it has expired.
func (f *pkiFiles) warn(now time.Time) {
	pki := f.a.identity.PKI()
	left, life := pki.NotAfter().Sub(now), pki.NotAfter().Sub(pki.NotBefore())
	state := ""
	switch {
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
	security, err := pkiSecurity(next, a.identity.node, a.cfg.Role != config.Proxy)
	if err != nil {
		return err
	}
	a.identity.pki.Store(next)
	a.quorum.listener.SetSecurity(security)
	a.quorum.dialer.SetSecurity(security)
	dropped := next.Distrusts(before)
	if dropped {
		a.quorum.listener.Drop()
	}
	a.log.Info("the certificates of the own PKI were read again", "serial", next.Serial(), "not_after", next.NotAfter(), "connections_dropped", dropped)
	return nil
}

// followFiles follows the files of the own PKI until ctx ends.
func (a *agent) followFiles(ctx context.Context) {
	files := newPKIFiles(a)
	tick := time.NewTicker(rotationInterval)
	defer tick.Stop()
	for {
		files.look(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

var certificateDesc = prometheus.NewDesc("kahu_tls_certificate_remaining_seconds",
	"Until this agent's certificate of an own PKI expires; negative when it has. Without an own PKI there is none: derived certificates do not expire.", nil, nil)

// collectCertificate shows how long the own certificate is valid.
func (a *agent) collectCertificate(ch chan<- prometheus.Metric) {
	if pki := a.identity.PKI(); pki != nil {
		ch <- prometheus.MustNewConstMetric(certificateDesc, prometheus.GaugeValue, time.Until(pki.NotAfter()).Seconds())
	}
}
