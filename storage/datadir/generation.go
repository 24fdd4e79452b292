package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// currentName is the file in engine/ that names the generation in use, in one
// line: "generation 0000000001\n".
const (
	currentName   = "CURRENT"
	currentPrefix = "generation "
	digits        = 10
)

// Generation is a directory for an engine that is not in use yet: where a
// snapshot from another voter is restored. It becomes the engine's directory
// with Switch, or goes with Discard. One that is neither switched to nor
// discarded is removed by the next Open.
type Generation struct {
	dir *Dir
	n   uint64
}

func generationDir(n uint64) string {
	return path.Join(engineName, fmt.Sprintf("%0*d", digits, n))
}

// EngineDir is the directory of the generation in use.
func (d *Dir) EngineDir() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return filepath.Join(d.path, filepath.FromSlash(generationDir(d.current)))
}

// NewGeneration makes an empty generation beside the one in use. It does not
// touch that one.
func (d *Dir) NewGeneration() (*Generation, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, err := d.generations()
	if err != nil {
		return nil, err
	}
	n := d.current
	for _, g := range all {
		n = max(n, g)
	}
	n++
	if err := d.root.Mkdir(generationDir(n), dirMode); err != nil {
		return nil, explain(d.path, "make a generation of the engine", err)
	}
	d.building[n] = struct{}{}
	return &Generation{d, n}, nil
}

// Path is the directory of the generation, absolute.
func (g *Generation) Path() string {
	return filepath.Join(g.dir.path, filepath.FromSlash(generationDir(g.n)))
}

// Switch makes g the generation in use, atomically and durably: after a crash
// the former one or g is in use, never a mixture. The caller has filled g,
// synced it and closed the engine in it, or keeps it open; the engine of the
// former generation may still be open and is removed by RemoveOrphans or the
// next Open. It blocks for the disk.
func (g *Generation) Switch() error {
	d := g.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.building[g.n]; !ok {
		return fmt.Errorf("generation %d of the engine was switched to or discarded before", g.n)
	}
	// The entries of g, then the entry of g itself, before CURRENT names it.
	for _, name := range []string{generationDir(g.n), engineName} {
		if err := syncDir(d.root, name); err != nil {
			return explain(d.path, "sync "+name, err)
		}
	}
	if err := d.writeCurrent(g.n); err != nil {
		return err
	}
	delete(d.building, g.n)
	d.current = g.n
	return nil
}

// Discard removes g. After a Switch it does nothing.
func (g *Generation) Discard() error {
	d := g.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.building[g.n]; !ok {
		return nil
	}
	delete(d.building, g.n)
	return d.remove(g.n)
}

// RemoveOrphans removes the generations that are neither in use nor being
// filled. Call it after Switch, when the former engine is closed.
func (d *Dir) RemoveOrphans() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, err := d.generations()
	if err != nil {
		return err
	}
	for _, n := range all {
		if _, ok := d.building[n]; ok || n == d.current {
			continue
		}
		d.log.Info("removing a generation of the engine that is not in use", "generation", n)
		if err := d.remove(n); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) remove(n uint64) error {
	if n == d.current {
		panic(fmt.Sprintf("datadir: removing generation %d, which is in use", n))
	}
	if err := d.root.RemoveAll(generationDir(n)); err != nil {
		return explain(d.path, "remove an old generation of the engine", err)
	}
	return nil
}

// generations lists the directories that are named like one.
func (d *Dir) generations() ([]uint64, error) {
	names, err := list(d.root, engineName)
	if err != nil {
		return nil, explain(d.path, "list "+engineName, err)
	}
	var all []uint64
	for _, name := range names {
		if n, ok := parseGeneration(name); ok {
			all = append(all, n)
		}
	}
	return all, nil
}

func parseGeneration(s string) (uint64, bool) {
	if len(s) != digits {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n > 0
}

func (d *Dir) writeCurrent(n uint64) error {
	line := fmt.Sprintf("%s%0*d\n", currentPrefix, digits, n)
	if err := replace(d.root, engineName, currentName, []byte(line)); err != nil {
		return explain(d.path, "write "+engineName+"/"+currentName, err)
	}
	return nil
}

// loadCurrent reads which generation is in use. agent.json exists, so it must be
// there.
func (d *Dir) loadCurrent() error {
	name := path.Join(engineName, currentName)
	b, err := d.root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return corrupt(d.path, name+" is missing", nil)
	}
	if err != nil {
		return explain(d.path, "read "+name, err)
	}
	line, whole := strings.CutSuffix(string(b), "\n")
	number, ours := strings.CutPrefix(line, currentPrefix)
	n, valid := parseGeneration(number)
	if !whole || !ours || !valid {
		return corrupt(d.path, fmt.Sprintf("%s says %.40q", name, b), nil)
	}
	info, err := d.root.Stat(generationDir(n))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return corrupt(d.path, fmt.Sprintf("%s names %s, which is missing", name, generationDir(n)), nil)
	}
	if err != nil {
		return explain(d.path, "look at "+generationDir(n), err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = n
	return nil
}

// replace writes a file under a temporary name, syncs it, renames it over name
// and syncs the directory.
func replace(root *os.Root, dir, name string, data []byte) (err error) {
	final := path.Join(dir, name)
	temp := final + tempSuffix
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := root.Rename(temp, final); err != nil {
		return err
	}
	return syncDir(root, dir)
}

func syncDir(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func list(root *os.Root, name string) ([]string, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
