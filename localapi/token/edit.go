package token

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

// Create makes a token as e says (Name, Expires, Allow, Prefixes) and adds it to
// the file, which is made when it is not there. It returns the token, which nobody
// can show again. Edits by several processes take turns.
func Create(path string, e Entry, now time.Time) (text string, made Entry, err error) {
	if e.expired(now) {
		return "", Entry{}, errors.New("it would have expired already")
	}
	e.ID, text = generate()
	hash := sha256.Sum256([]byte(text))
	e.SHA256, e.Created = hex.EncodeToString(hash[:]), now.UTC().Truncate(time.Second)
	if _, err := understand(e); err != nil {
		return "", Entry{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	err = edit(path, true, func(entries []Entry) ([]Entry, error) {
		if slices.ContainsFunc(entries, func(o Entry) bool { return o.Name == e.Name }) {
			return nil, fmt.Errorf("there is a token %q already; revoke it first, or choose another name", e.Name)
		}
		return append(entries, e), nil
	})
	if err != nil {
		return "", Entry{}, err
	}
	return text, e, nil
}

// List returns the entries of the file in the order in which they were made.
func List(path string) ([]Entry, error) {
	s, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return s.entries, nil
}

// ErrInvalid says that a token cannot be as it was asked for.
var ErrInvalid = errors.New("the token is not valid")

// ErrNoToken says that there is no token of that name.
var ErrNoToken = errors.New("there is no token of that name")

// Revoke takes a token out of the file.
func Revoke(path, name string) error {
	return edit(path, false, func(entries []Entry) ([]Entry, error) {
		left := slices.DeleteFunc(entries, func(e Entry) bool { return e.Name == name })
		if len(left) == len(entries) {
			return nil, fmt.Errorf("%w: %q", ErrNoToken, name)
		}
		return left, nil
	})
}

// edit replaces the file; whoever reads it, also after a crash, finds the old or
// the new content. A lock file beside it makes edits take turns.
func edit(path string, create bool, change func([]Entry) ([]Entry, error)) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // the link stays
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("changing the token file: %w", err)
	}
	defer lock.Close() // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("waiting for the lock %s: %w", lock.Name(), err)
	}
	s, err := readFile(path)
	if create && errors.Is(err, fs.ErrNotExist) {
		s, err = &Set{}, nil
	}
	if err != nil {
		return err
	}
	entries, err := change(slices.Clone(s.entries))
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(document{Format: fileFormat, Tokens: entries}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the token file: %w", err)
	}
	if _, err := Parse(text); err != nil { // what an agent would not take is not written
		return fmt.Errorf("the token file would not be usable any more: %w", err)
	}
	// An agent of another user reads it.
	if err := atomicfile.WriteBytes(path, atomicfile.Options{KeepOwner: true}, append(text, '\n')); err != nil {
		return fmt.Errorf("changing the token file: %w", err)
	}
	return nil
}

// readFile reads a token file. Who may change it may make tokens.
func readFile(path string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the token file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the token file: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("the token file %s can be changed by others than its owner; fix with: chmod go-w %s", path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the token file: %w", err)
	}
	s, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the token file %s cannot be used: %w", path, err)
	}
	return s, nil
}
