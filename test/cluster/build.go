package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BinaryVariable names a ready-made kahu binary to test instead of building one.
const BinaryVariable = "KAHU_TEST_BINARY"

// Build builds the shipped binary into dir and returns its path. It blocks for
// the compiler. With KAHU_TEST_BINARY set it returns that instead.
func Build(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "kahu")
	args := []string{"build", "-o", path}
	if haveRocksDB(ctx) {
		args = append(args, "-tags", "rocksdb")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/kahu-sh/kahu/cmd/kahu")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building kahu: %w\n%s", err, out)
	}
	return path, nil
}

// HaveRocksDB reports whether binary was built with the RocksDB engine.
func HaveRocksDB(ctx context.Context, binary string) (bool, error) {
	out, err := exec.CommandContext(ctx, "go", "version", "-m", binary).Output()
	if err != nil {
		return false, fmt.Errorf("reading how %s was built: %w", binary, err)
	}
	return strings.Contains(string(out), "-tags=rocksdb"), nil
}

// haveRocksDB is the Makefile's question: are the headers of RocksDB 7 there?
func haveRocksDB(ctx context.Context) bool {
	cmd := exec.CommandContext(ctx, "g++", "-E", "-x", "c++", "-")
	cmd.Stdin = strings.NewReader("#include <rocksdb/version.h>\n#if ROCKSDB_MAJOR != 7\n#error\n#endif\n")
	return cmd.Run() == nil
}
