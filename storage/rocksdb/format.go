//go:build rocksdb

package rocksdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/atomicfile"
)

// The directory holds "format", one line that names kahu and the version, and
// RocksDB's own files in "db".
const (
	formatFile   = "format"
	formatPrefix = "kahu.rocksdb "
	formatLine   = formatPrefix + "1\n"
	dbDir        = "db"
)

// checkFormat writes the format file into a new directory, or checks it.
func checkFormat(dir string) error {
	path := filepath.Join(dir, formatFile)
	line, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, dbDir)); err == nil {
			return fmt.Errorf("%w: %s holds a database but no file %q", storage.ErrCorrupt, dir, formatFile)
		}
		if err := writeFormat(dir); err != nil {
			return err
		}
		return atomicfile.Sync(dir)
	case err != nil:
		return fmt.Errorf("read the engine's format: %w", err)
	case string(line) == formatLine:
		return nil
	}
	var version int
	if rest, ok := strings.CutPrefix(string(line), formatPrefix); ok {
		if _, err := fmt.Sscanf(rest, "%d\n", &version); err == nil && version > 1 {
			return fmt.Errorf("%w: version %d, this kahu reads up to 1", storage.ErrNewerFormat, version)
		}
	}
	return fmt.Errorf("%w: %s says %q, want %q", storage.ErrCorrupt, path, line, formatLine)
}

// writeFormat makes the format file whole or not at all.
func writeFormat(dir string) error {
	temp := filepath.Join(dir, formatFile+".tmp")
	if err := os.WriteFile(temp, []byte(formatLine), 0o600); err != nil {
		return fmt.Errorf("write the engine's format: %w", err)
	}
	if err := atomicfile.Sync(temp); err != nil {
		return fmt.Errorf("write the engine's format: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(dir, formatFile)); err != nil {
		return fmt.Errorf("write the engine's format: %w", err)
	}
	return nil
}

// syncTree syncs every file and directory of a checkpoint, and the directory
// that it is in.
func syncTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return atomicfile.Sync(path)
	})
	if err == nil {
		err = atomicfile.Sync(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("sync the checkpoint: %w", err)
	}
	return nil
}
