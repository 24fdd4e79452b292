package imports

import (
	"fmt"
	"slices"
	"strings"
)

// A Package is what `go list -json` says of one package, as far as it matters.
type Package struct {
	ImportPath string
	Name       string
	Dir        string
	Imports    []string // of its non-test files
	Standard   bool
}

// matches reports whether path is pattern, or below it when pattern ends in "...".
func matches(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	return path == pattern
}

// rowFor returns the row with the longest matching pattern.
func rowFor(path string) (row, bool) {
	var best row
	found := false
	for _, r := range rows {
		if matches(r.Package, path) && (!found || len(strings.TrimSuffix(r.Package, "/...")) >= len(strings.TrimSuffix(best.Package, "/..."))) {
			// An exact row beats "x/..." of the same x.
			if found && r.Package == best.Package+"/..." {
				continue
			}
			best, found = r, true
		}
	}
	return best, found
}

// Check returns one sentence for every broken rule.
func Check(packages []Package) []string {
	var broken []string
	for _, p := range packages {
		path, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			broken = append(broken, fmt.Sprintf("%s: there is no package at the top of the module; it belongs in a room", p.ImportPath))
			continue
		}
		if slices.Contains(forbiddenNames, p.Name) {
			broken = append(broken, fmt.Sprintf("%s: package name %q says nothing about what is inside; name it for what it is", path, p.Name))
		}
		r, ok := rowFor(path)
		if !ok {
			broken = append(broken, fmt.Sprintf("%s: not on the map; give it a row in test/imports/rules.go that says what it may import, and why", path))
			continue
		}
		for _, imported := range p.Imports {
			broken = append(broken, checkImport(path, imported, r)...)
		}
	}
	slices.Sort(broken)
	return slices.Compact(broken)
}

// checkImport judges one arrow.
func checkImport(path, imported string, r row) []string {
	var broken []string
	if theirs, ours := strings.CutPrefix(imported, module); ours {
		allowed := slices.ContainsFunc(r.May, func(pattern string) bool { return matches(pattern, theirs) })
		if !allowed {
			broken = append(broken, fmt.Sprintf("%s must not import %s: %s (it may import %s)", path, theirs, r.Why, list(r.May)))
		}
	}
	if imported == "testing" && !strings.HasPrefix(path, "test/") && !strings.HasSuffix(path, "test") {
		broken = append(broken, fmt.Sprintf("%s must not import testing: it registers flags in the shipped binary; put test support in a package named ...test", path))
	}
	for _, b := range bans {
		if !matches(b.Package, path) {
			continue
		}
		for _, pattern := range b.Not {
			if matches(pattern, imported) {
				broken = append(broken, fmt.Sprintf("%s must not import %s: %s", path, imported, b.Why))
			}
		}
	}
	return broken
}

// list joins patterns for people.
func list(patterns []string) string {
	if len(patterns) == 0 {
		return "none of our packages"
	}
	return strings.Join(patterns, ", ")
}

// IsTopLevel reports whether a folder of that name may stand at the top of the
// repository.
func IsTopLevel(name string) bool { return slices.Contains(topLevel, name) }
