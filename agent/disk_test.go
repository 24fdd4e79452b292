package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbeDisk(t *testing.T) {
	dir := t.TempDir()
	if err := probeDisk(dir, 0); err != nil {
		t.Errorf("a disk that works: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, diskProbeName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the probe was left: %v", err)
	}
	if err := probeDisk(dir, 1<<62); !errors.Is(err, unix.ENOSPC) || !sick(err) {
		t.Errorf("too little room: %v", err)
	}
	if err := probeDisk(filepath.Join(dir, "missing"), 0); err == nil || sick(err) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
