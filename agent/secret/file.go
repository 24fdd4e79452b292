package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

// maxFileBytes is far more than any list of secrets needs.
const maxFileBytes = 64 << 10

// Role is what a secret is needed for.
type Role int

const (
	// ForProxy accepts a proxy's and a voter's secret.
	ForProxy Role = iota
	// ForVoter accepts a voter's secret only.
	ForVoter
)

// Read reads a secret file. It refuses a file that anybody but its owner can
// read, and a proxy's secrets where a voter's are needed, with one line that
// says what to do. A missing file is an fs.ErrNotExist.
func Read(path string, role Role) (*Keys, error) {
	secrets, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if role == ForVoter && !secrets[0].IsVoter() {
		return nil, fmt.Errorf("secret file %s has a proxy's secret, but a voter needs the voter's: copy it from another voter, or start this agent with --role proxy", path)
	}
	return New(secrets...)
}

func readFile(path string) ([]Secret, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("secret file %s is missing: copy it from another agent, or make one with 'kahu keygen': %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the secret file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what is open, not of what the path says by now
	if err != nil {
		return nil, fmt.Errorf("looking at secret file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("secret file %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("secret file %s can be used by others than its owner (mode %04o): run 'chmod 600 %s', and make a new secret if somebody may have read it", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading secret file %s: %w", path, err)
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("secret file %s has more than %d bytes: it is something else", path, maxFileBytes)
	}
	secrets, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("secret file %s: %w", path, err)
	}
	return secrets, nil
}

// Write writes a new secret file of mode 0600, whole or not at all, and durable
// when it returns. An existing file is never overwritten: the error is an
// fs.ErrExist.
func Write(path string, secrets ...Secret) (err error) {
	var text strings.Builder
	fmt.Fprintf(&text, "# kahu %s; of several the first is used, all are accepted\n", strings.Fields(secrets[0].String())[0]+" secret")
	for _, s := range secrets {
		fmt.Fprintln(&text, s.Line())
	}
	if dir := filepath.Dir(path); dir != "." {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("writing secret file %s: there is no directory %s; make it first: mkdir -m 700 %s", path, dir, dir)
		}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing secret file %s: %w", path, err)
		}
	}()
	return atomicfile.WriteBytes(path, atomicfile.Options{New: true}, []byte(text.String()))
}
