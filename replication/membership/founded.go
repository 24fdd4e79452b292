package membership

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Found makes node the only member of a new cluster, in a data directory that no
// Keeper has used: that of a voter whose state was restored from a backup. The
// Raft configuration that says the same is the caller's. It returns the cluster's
// id, and what it wrote is durable.
func Found(dir, node string) (cluster string, err error) {
	path := filepath.Join(dir, stateFile)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is there already: this node belongs to a cluster", path)
	}
	s := &state{Format: stateFormat, Node: node, Cluster: randomID(), Bootstrapped: true, Joined: true}
	return s.Cluster, s.save(dir)
}
