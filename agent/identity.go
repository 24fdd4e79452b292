package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/datadir"
	"github.com/kahu-sh/kahu/storage/engines"
)

// An UnusableError says that the agent cannot run on this data directory or
// with this secret until somebody changes one of them. Its text is one line.
type UnusableError struct{ err error }

// Error implements error.
func (e *UnusableError) Error() string { return e.err.Error() }

// Unwrap gives the reason to errors.Is.
func (e *UnusableError) Unwrap() error { return e.err }

// identity is what makes this agent this agent: its directory, the node id that
// was made with it, and the cluster's secret.
type identity struct {
	node      string
	dir       string
	diskOnly  bool
	replacing sync.Mutex                  // of keys and pki, and of connections made by them
	keys      atomic.Pointer[secret.Keys] // replaced when secrets are rotated
	pki       atomic.Pointer[secret.PKI]  // replaced when its files change; nil: certificates come from the secret
	storage   voterStorage                // nil on a proxy

	closers []func() error // in the order opened
}

// Keys are the secrets in use now, never nil once the identity is open, but in
// upstream mode.
func (id *identity) Keys() *secret.Keys { return id.keys.Load() }

// PKI are the certificates of the own PKI in use now, nil without one.
func (id *identity) PKI() *secret.PKI { return id.pki.Load() }

// voterStorage is a voter.Storage that has to be closed.
type voterStorage interface {
	voter.Storage
	Close() error
}

// openIdentity locks and opens the data directory and reads the secret.
func openIdentity(cfg config.Config, version string) (*identity, error) {
	return openAs(&identity{}, cfg, version)
}

// openDisk is openIdentity without a secret, for who asks no other agent: root finds
// the data directory, but not what systemd gives to the agent alone.
func openDisk(cfg config.Config, version string) (*identity, error) {
	return openAs(&identity{diskOnly: true}, cfg, version)
}

func openAs(id *identity, cfg config.Config, version string) (*identity, error) {
	open := id.open
	if cfg.Dev {
		open = id.openDev
	}
	if err := open(cfg, version); err != nil {
		// What was opened is closed; the reason is what counts.
		_ = id.close(context.Background())
		return nil, &UnusableError{err}
	}
	return id, nil
}

// open is for an agent with a data directory.
func (id *identity) open(cfg config.Config, version string) error {
	kind := string(cfg.Storage)
	if cfg.Role == config.Proxy {
		kind = datadir.NoEngine // a proxy opens no engine; its directory can never become a voter's
	} else if err := engines.Check(kind); err != nil {
		return err // before a directory is made that no other engine could use
	}
	dir, err := datadir.Open(cfg.DataDir, datadir.Options{Engine: kind, Version: version})
	if err != nil {
		return err
	}
	id.closers = append(id.closers, dir.Close)
	id.node, id.dir = dir.Identity().Node, dir.Path()
	if cfg.Upstream.On() {
		return nil // it meets no other agents
	}
	if id.diskOnly {
		return id.openEngine(cfg, kind, dir)
	}
	keys, err := readSecret(cfg)
	if err != nil {
		return err
	}
	id.keys.Store(keys)
	if cfg.PKI.On() {
		pki, err := checkPKI(cfg)
		if err != nil {
			return err
		}
		id.pki.Store(pki)
	}
	if cfg.Role == config.Proxy {
		return nil
	}
	return id.openEngine(cfg, kind, dir)
}

// openEngine is for an agent that can vote.
func (id *identity) openEngine(cfg config.Config, kind string, dir *datadir.Dir) error {
	if dir.Volatile() && !cfg.AllowVolatile {
		return fmt.Errorf("the data directory %s does not survive a reboot (tmpfs or an overlay), and a voter must not forget its votes: "+
			"put it on a disk, or run as --role proxy, or, for a test, say --allow-volatile", dir.Path())
	}
	engine, err := engines.Open(kind, dir.EngineDir())
	if err != nil {
		return fmt.Errorf("opening the %s engine: %w", kind, err)
	}
	st := &diskStorage{kind: kind, dir: dir, engine: engine}
	id.storage = st
	id.closers = append(id.closers, st.Close)
	return nil
}

// openDev is for an agent that leaves nothing behind.
func (id *identity) openDev(config.Config, string) error {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	id.node = hex.EncodeToString(b[:])
	keys, err := secret.New(secret.Generate())
	if err != nil {
		return err
	}
	id.keys.Store(keys)
	if id.dir, err = os.MkdirTemp("", "kahu-dev-"); err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	id.closers = append(id.closers, func() error { return os.RemoveAll(id.dir) })
	st, err := voter.NewMemoryStorage()
	if err != nil {
		return err
	}
	id.storage = st
	id.closers = append(id.closers, st.Close)
	return nil
}

// close gives everything back, the last opened first.
func (id *identity) close(context.Context) error {
	var errs []error
	for i := len(id.closers) - 1; i >= 0; i-- {
		errs = append(errs, id.closers[i]())
	}
	return errors.Join(errs...)
}

// SettleRole decides what an agent with role auto can be: with a proxy's secret it
// is a proxy, so that the same configuration can be on every host. Run does it as
// well; asked again it changes nothing.
func SettleRole(cfg config.Config) (config.Config, error) {
	if cfg.Role != config.Auto || cfg.Dev || cfg.SecretFile == "" {
		return cfg, nil
	}
	if cfg.PKI.On() {
		return settleByCertificate(cfg)
	}
	keys, err := secret.Read(cfg.SecretFile, secret.ForProxy)
	if err != nil || keys.IsVoter() {
		return cfg, nil // what is wrong with it is said when it is needed
	}
	if len(cfg.Join)+len(cfg.JoinClouds) == 0 {
		return cfg, &UnusableError{fmt.Errorf("%s has a proxy's secret, and a proxy asks the voters: name at least one of them with --join", cfg.SecretFile)}
	}
	cfg.Role, cfg.BootstrapExpect = config.Proxy, 0
	return cfg, nil
}

// CheckFiles reads the secret and the certificates that cfg names as an agent does
// when it starts, and changes nothing. cfg is what SettleRole returns.
func CheckFiles(cfg config.Config) error {
	if cfg.Dev || cfg.Upstream.On() {
		return nil
	}
	if !cfg.MakeSecret {
		if _, err := readSecret(cfg); err != nil {
			return &UnusableError{err}
		}
	}
	if cfg.PKI.On() {
		if _, err := checkPKI(cfg); err != nil {
			return &UnusableError{err}
		}
	}
	return nil
}

// secretRole is what the secret has to be good for. With an own PKI alone that is
// gossip.
func secretRole(cfg config.Config) secret.Role {
	if cfg.Role == config.Proxy || cfg.PKI.On() && !cfg.PKI.AcceptSecret {
		return secret.ForProxy
	}
	return secret.ForVoter
}

// readSecret reads the cluster secret. An agent that is alone and was given
// none makes one, which others can be given later.
func readSecret(cfg config.Config) (*secret.Keys, error) {
	role := secretRole(cfg)
	keys, err := secret.Read(cfg.SecretFile, role)
	switch {
	case err == nil:
		return keys, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !cfg.MakeSecret:
		return nil, fmt.Errorf("there is no cluster secret at %s; copy it from another agent, or make one with: kahu keygen %s", cfg.SecretFile, cfg.SecretFile)
	}
	if err := secret.Write(cfg.SecretFile, secret.Generate()); err != nil {
		return nil, fmt.Errorf("making the cluster secret: %w", err)
	}
	return secret.Read(cfg.SecretFile, role)
}

// diskStorage is a data directory as the voter needs it.
type diskStorage struct {
	kind   string
	dir    *datadir.Dir
	engine storage.Engine
}

var _ voter.Storage = (*diskStorage)(nil)

// Engine implements voter.Storage.
func (s *diskStorage) Engine() storage.Engine { return s.engine }

// LogDir implements voter.Storage.
func (s *diskStorage) LogDir() string { return s.dir.LogDir() }

// Close closes the engine in use. The voter must have stopped.
func (s *diskStorage) Close() error { return s.engine.Close() }

// NewGeneration implements voter.Storage.
func (s *diskStorage) NewGeneration() (voter.Generation, error) {
	g, err := s.dir.NewGeneration()
	if err != nil {
		return nil, err
	}
	engine, err := engines.Open(s.kind, g.Path())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the %s engine of a new generation: %w", s.kind, err), g.Discard())
	}
	return &diskGeneration{storage: s, dir: g, engine: engine}, nil
}

// diskGeneration is an engine that is being filled from a snapshot.
type diskGeneration struct {
	storage *diskStorage
	dir     *datadir.Generation
	engine  storage.Engine // nil when activated or discarded
}

// Engine implements voter.Generation.
func (g *diskGeneration) Engine() storage.Engine { return g.engine }

// Activate implements voter.Generation.
func (g *diskGeneration) Activate() error {
	if err := g.engine.Sync(); err != nil {
		return fmt.Errorf("syncing the restored engine: %w", err)
	}
	if err := g.dir.Switch(); err != nil {
		return err
	}
	old := g.storage.engine
	g.storage.engine, g.engine = g.engine, nil
	if err := old.Close(); err != nil {
		return fmt.Errorf("closing the engine before the restore: %w", err)
	}
	return g.storage.dir.RemoveOrphans()
}

// Discard implements voter.Generation.
func (g *diskGeneration) Discard() error {
	if g.engine == nil {
		return nil
	}
	err := g.engine.Close()
	g.engine = nil
	return errors.Join(err, g.dir.Discard())
}
