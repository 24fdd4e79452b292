package doors

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often files are looked at, at most; they are looked at when
// somebody connects.
const lookEvery = time.Second

// files tells whether any of some files changed since it was asked last. The owner
// of a files locks it.
type files struct {
	paths  []string
	looked time.Time
	seen   []os.FileInfo
}

// changed reports whether the files differ from what was seen last, and remembers
// them. A file that cannot be looked at has not changed: it is being replaced.
func (f *files) changed(now time.Time) bool {
	if since := now.Sub(f.looked); since >= 0 && since < lookEvery {
		return false
	}
	f.looked = now
	infos := make([]os.FileInfo, len(f.paths))
	same := f.seen != nil
	for i, path := range f.paths {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		infos[i] = info
		same = same && os.SameFile(info, f.seen[i]) && info.ModTime().Equal(f.seen[i].ModTime()) && info.Size() == f.seen[i].Size()
	}
	f.seen = infos
	return !same
}

// Certificate is a certificate and its key in two PEM files, which are read again
// when they change. Its methods may be called concurrently.
type Certificate struct {
	certFile, keyFile string
	now               func() time.Time
	logger            *slog.Logger

	current atomic.Pointer[tls.Certificate] // never nil

	mu    sync.Mutex // guards what follows
	files files
}

// LoadCertificate reads the two files. now is the wall clock.
func LoadCertificate(certFile, keyFile string, now func() time.Time, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, now: now, logger: logger, files: files{paths: []string{certFile, keyFile}}}
	c.files.changed(now()) // before they are read: a change in between is seen again
	pair, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current.Store(pair)
	if until := pair.Leaf.NotAfter; now().After(until) {
		logger.Warn("the certificate of the Kahuna wire has expired: clients that check it will refuse it", "path", certFile, "expired", until)
	}
	return c, nil
}

func (c *Certificate) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and its key %s cannot be used: %w", c.certFile, c.keyFile, err)
	}
	return &pair, nil // since Go 1.23 with its Leaf
}

// get is for tls.Config.GetCertificate.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.mu.TryLock() { // somebody else is looking
		defer c.mu.Unlock()
		if c.files.changed(c.now()) {
			c.reload()
		}
	}
	return c.current.Load(), nil
}

// reload takes the files, if they fit each other: who replaces one after the other
// has a moment where they do not.
func (c *Certificate) reload() {
	pair, err := c.load()
	if err != nil {
		c.logger.Warn("the changed certificate of the Kahuna wire is not used: the one before stays", "error", err)
		return
	}
	c.current.Store(pair)
	c.logger.Info("the certificate of the Kahuna wire was read again", "path", c.certFile, "expires", pair.Leaf.NotAfter)
}

// Leaf is the certificate that is shown now.
func (c *Certificate) Leaf() *x509.Certificate { return c.current.Load().Leaf }

// Fingerprint is the SHA-256 of the certificate that is shown now, in lower-case
// hexadecimal: what clients of Kahuna pin.
func (c *Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.Leaf().Raw)
	return hex.EncodeToString(sum[:])
}

// ClientCA is the certificates, in one PEM file, that client certificates must be
// signed by. It is read again when it changes. Its methods may be called
// concurrently.
type ClientCA struct {
	path   string
	now    func() time.Time
	logger *slog.Logger

	current atomic.Pointer[x509.CertPool] // never nil

	mu    sync.Mutex // guards what follows
	files files
}

// LoadClientCA reads the file. now is the wall clock.
func LoadClientCA(path string, now func() time.Time, logger *slog.Logger) (*ClientCA, error) {
	c := &ClientCA{path: path, now: now, logger: logger, files: files{paths: []string{path}}}
	c.files.changed(now())
	pool, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current.Store(pool)
	return c, nil
}

func (c *ClientCA) load() (*x509.CertPool, error) {
	text, err := os.ReadFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("reading the client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("the client CA %s cannot be used: %w", c.path, errors.New("there is no PEM certificate in it"))
	}
	return pool, nil
}

// pool is what to verify the next connection with.
func (c *ClientCA) pool() *x509.CertPool {
	if c.mu.TryLock() {
		defer c.mu.Unlock()
		if c.files.changed(c.now()) {
			pool, err := c.load()
			if err != nil {
				c.logger.Warn("the changed client CA is not used: the one before stays", "error", err)
			} else {
				c.current.Store(pool)
				c.logger.Info("the client CA was read again", "path", c.path)
			}
		}
	}
	return c.current.Load()
}
