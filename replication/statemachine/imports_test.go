package statemachine_test

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestImports keeps everything out of the state machine that could differ
// between two voters.
func TestImports(t *testing.T) {
	forbidden := map[string]string{
		"time":         "time comes with the entry",
		"math/rand":    "two voters would draw different numbers",
		"math/rand/v2": "two voters would draw different numbers",
		"crypto/rand":  "two voters would draw different numbers",
		"os":           "no file decides",
		"net":          "nobody is asked",
		"sync":         "one goroutine applies",
		"log/slog":     "decisions are returned, not logged",
		"runtime":      "two voters have different machines",
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		looked++
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if why, bad := forbidden[path]; bad || strings.HasPrefix(path, "net/") {
				t.Errorf("%s imports %s: %s", f.Name(), path, why)
			}
		}
	}
	if looked < 10 {
		t.Errorf("looked at %d files only", looked)
	}
}
