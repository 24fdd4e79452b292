// Command licences writes the licences and notices of every module inside a Go
// binary: what a package that carries the binary must carry too.
//
//	licences bin/kahu >licences
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
)

// texts are the names that licence files go by.
var texts = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|copyright|patents|unlicense)([.-].*)?$`)

func main() {
	err := errors.New("usage: licences BINARY")
	if len(os.Args) == 2 {
		err = write(os.Stdout, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// write writes the texts of all modules of the binary, in order of their paths.
func write(w io.Writer, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("reading what %s was built of: %w", binary, err)
	}
	if _, err := fmt.Fprintf(w, "What %s contains besides its own code (%s), and under which terms.\n", filepath.Base(binary), info.GoVersion); err != nil {
		return err
	}
	if err := module(w, "the Go standard library", info.GoVersion, goRoot()); err != nil {
		return err
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		dir, err := moduleDir(m.Path, m.Version)
		if err != nil {
			return err
		}
		if err := module(w, m.Path, m.Version, dir); err != nil {
			return err
		}
	}
	return nil
}

func goRoot() string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return ""
	}
	return string(out[:max(len(out)-1, 0)])
}

func moduleDir(path, version string) (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", path+"@"+version).Output()
	if err != nil {
		return "", fmt.Errorf("finding the source of %s %s: %w", path, version, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", fmt.Errorf("finding the source of %s %s: %w", path, version, err)
	}
	return found.Dir, nil
}

// module writes the texts of one module. One without any is an error: somebody
// has to look at it.
func module(w io.Writer, path, version, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking for the licence of %s: %w", path, err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.IsDir() || !texts.MatchString(e.Name()) })
	if len(entries) == 0 {
		return fmt.Errorf("%s %s has no licence file in %s", path, version, dir)
	}
	_, err = fmt.Fprintf(w, "\n%s\n%s %s\n", "========================================", path, version)
	for _, e := range entries {
		text, readErr := os.ReadFile(filepath.Join(dir, e.Name()))
		if readErr != nil {
			return fmt.Errorf("reading the licence of %s: %w", path, readErr)
		}
		_, writeErr := fmt.Fprintf(w, "\n-- %s\n\n%s\n", e.Name(), text)
		err = errors.Join(err, writeErr)
	}
	return err
}
