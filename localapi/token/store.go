package token

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
)

// lookEvery is how often the file is looked at, at most.
const lookEvery = time.Second

// Store is a token file that an agent serves by. It looks at the file again when
// it is asked, and starts nothing. Its methods may be called concurrently.
type Store struct {
	path   string
	now    func() time.Time
	logger *slog.Logger

	set    atomic.Pointer[Set] // never nil
	looked atomic.Int64        // now in nanoseconds when the file was looked at

	mu   sync.Mutex // guards what follows
	seen os.FileInfo
}

var _ policy.Tokens = (*Store)(nil)

// Open reads the file. One that is not there is empty, until somebody makes it;
// one that cannot be used is an error. now is the wall clock.
func Open(path string, now func() time.Time, logger *slog.Logger) (*Store, error) {
	s := &Store{path: path, now: now, logger: logger}
	s.set.Store(&Set{})
	s.looked.Store(now().UnixNano())
	return s, s.load()
}

// Verify returns the entry of a token that is valid now.
func (s *Store) Verify(text string) (Entry, bool) { return s.current().Verify(text, s.now()) }

// Grants implements policy.Tokens.
func (s *Store) Grants(id string) (own *policy.Policy, valid bool) {
	k := s.current().byID[id]
	if k == nil || k.expired(s.now()) {
		return nil, false
	}
	return k.own, true
}

// Len returns how many tokens the file has, expired ones included.
func (s *Store) Len() int { return len(s.current().entries) }

// current looks at the file when that was not done lately. One caller does, the
// others go on with what is known.
func (s *Store) current() *Set {
	now, last := s.now().UnixNano(), s.looked.Load()
	// A clock that went back counts as well.
	if (now-last >= int64(lookEvery) || now < last) && s.looked.CompareAndSwap(last, now) {
		if err := s.load(); err != nil {
			s.logger.Warn("the token file was changed and is not used: tokens are as they were", "error", err)
		}
	}
	return s.set.Load()
}

// load reads the file if it is not the one that was read last. A file that is gone
// has no tokens: who deletes it means that. One that cannot be used changes nothing,
// and is tried again when it changes.
func (s *Store) load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		if s.seen != nil {
			s.logger.Warn("the token file is gone: no token is valid any more", "path", s.path)
		}
		s.seen = nil
		s.set.Store(&Set{})
		return nil
	}
	if err == nil && s.seen != nil && os.SameFile(info, s.seen) && info.ModTime().Equal(s.seen.ModTime()) && info.Size() == s.seen.Size() &&
		info.Mode() == s.seen.Mode() {
		return nil
	}
	if err != nil {
		return err
	}
	first := s.seen == nil
	s.seen = info
	set, err := readFile(s.path)
	if err != nil {
		return err
	}
	s.set.Store(set)
	if !first {
		s.logger.Info("the token file was read again", "path", s.path, "tokens", len(set.entries))
	}
	return nil
}
