package datadir

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/zeebo/xxh3"
)

// formatVersion of the directory's layout. It rises when an older kahu would
// misread the directory.
const formatVersion = 1

// nodeBytes is the length of a node id before it is written in hex.
const nodeBytes = 16

// Identity is what agent.json holds.
type Identity struct {
	Format  int       `json:"format"`  // of the directory
	Writer  string    `json:"writer"`  // version of the kahu that used it last
	Node    string    `json:"node"`    // 128 random bits in hex; this agent's name in Raft for ever
	Engine  string    `json:"engine"`  // kind of the storage engine
	Created time.Time `json:"created"` // wall time, for people
}

// stored adds a checksum, so that one flipped bit is not another node.
type stored struct {
	Identity
	Checksum string `json:"checksum"`
}

func (i Identity) checksum() string {
	s := fmt.Sprintf("%d\n%s\n%s\n%s\n%s", i.Format, i.Writer, i.Node, i.Engine, i.Created.UTC().Format(time.RFC3339))
	return fmt.Sprintf("%016x", xxh3.HashString(s))
}

// loadIdentity reads agent.json: false when there is none.
func (d *Dir) loadIdentity(engine string) (known bool, err error) {
	b, err := d.root.ReadFile(identityName)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, explain(d.path, "read "+identityName, err)
	}
	i, err := decodeIdentity(d.path, b)
	if err != nil {
		return false, err
	}
	if engine != "" && engine != i.Engine {
		return false, otherEngine(d.path, i.Engine, engine)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = i
	return true, nil
}

func decodeIdentity(path string, b []byte) (Identity, error) {
	// First what every version can read.
	var head struct {
		Format int    `json:"format"`
		Writer string `json:"writer"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Identity{}, corrupt(path, identityName+" cannot be read ("+err.Error()+")", err)
	}
	if head.Format > formatVersion {
		return Identity{}, &Error{path, ErrNewerFormat,
			fmt.Sprintf("has format %d, written by kahu %q, and this kahu reads up to %d", head.Format, head.Writer, formatVersion),
			"start that kahu or a later one", nil}
	}
	var s stored
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return Identity{}, corrupt(path, identityName+" cannot be read ("+err.Error()+")", err)
	}
	node, err := hex.DecodeString(s.Node)
	switch {
	case s.Format < 1:
		return Identity{}, corrupt(path, fmt.Sprintf("%s has format %d", identityName, s.Format), nil)
	case err != nil || len(node) != nodeBytes:
		return Identity{}, corrupt(path, fmt.Sprintf("%s has the node id %q", identityName, s.Node), nil)
	case s.Engine == "":
		return Identity{}, corrupt(path, identityName+" names no engine", nil)
	case s.Checksum != s.checksum():
		return Identity{}, corrupt(path, identityName+" does not fit its checksum", nil)
	}
	return s.Identity, nil
}

func (d *Dir) writeIdentity(i Identity) error {
	b, err := json.MarshalIndent(stored{i, i.checksum()}, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(d.root, ".", identityName, append(b, '\n')); err != nil {
		return explain(d.path, "write "+identityName, err)
	}
	return nil
}

// signVersion notes which kahu used the directory last.
func (d *Dir) signVersion(version string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.identity.Writer == version {
		return nil
	}
	i := d.identity
	i.Writer = version
	if err := d.writeIdentity(i); err != nil {
		return err
	}
	d.identity = i
	return nil
}

// NoEngine is the Engine of an agent that keeps no state: a proxy's directory never
// becomes a voter's, nor the other way round.
const NoEngine = "none"

// otherEngine says what does not fit, and what to do.
func otherEngine(path, has, asked string) error {
	switch NoEngine {
	case asked:
		return &Error{path, ErrEngineKind, fmt.Sprintf("is that of an agent that can vote (%s), and a proxy was asked for", has),
			"start with --role auto, and the voters' secret, or use a new directory", nil}
	case has:
		return &Error{path, ErrEngineKind, "is a proxy's, and an agent that can vote was asked for",
			"start with --role proxy, or use a new directory", nil}
	}
	return &Error{path, ErrEngineKind, fmt.Sprintf("holds a %s engine, but %s was asked for", has, asked),
		fmt.Sprintf("start with --storage %s, or use a new directory", has), nil}
}
