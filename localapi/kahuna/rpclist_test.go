package kahuna_test

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"
)

// listed reads a list of Kahuna's, one name a line.
func listed(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name := strings.TrimPrefix(lines.Text(), "+ "); name != "" && name[0] != '#' {
			all[name] = true
		}
	}
	return all
}

// TestEveryRpcOfKahuna: what Kahuna's protos have is served, or is only between its
// servers and refused, and stands in the table of the package documentation under its
// service.
func TestEveryRpcOfKahuna(t *testing.T) {
	all := listed(t, "testdata/kahuna-rpcs.txt")
	if len(all) != 68 {
		t.Errorf("%d rpcs are listed; Kahuna had 68 when they were", len(all))
	}
	served := map[string]bool{}
	for _, desc := range services {
		for _, m := range desc.Methods {
			served[desc.ServiceName+"/"+m.MethodName] = true
		}
		for _, m := range desc.Streams {
			served[desc.ServiceName+"/"+m.StreamName] = true
		}
	}
	table := rpcTable(t)
	for name := range all {
		if served[name] == slices.Contains(serverOnly, "/"+name) {
			t.Errorf("%s is neither served nor refused, or both", name)
		}
		if !table[name] {
			t.Errorf("the table in doc.go does not have %s", name)
		}
	}
	for name := range served {
		if !all[name] {
			t.Errorf("%s is served, and Kahuna does not have it", name)
		}
	}
	for name := range table {
		if !served[name] && !slices.Contains(serverOnly, "/"+name) {
			t.Errorf("the table in doc.go has %s, which does not exist", name)
		}
	}
}

// rpcTable reads the table of doc.go: a service stands by itself, and below it names
// with commas before what becomes of them.
func rpcTable(t *testing.T) map[string]bool {
	t.Helper()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "// # Every rpc\n")
	if !ok {
		t.Fatal("doc.go has no table of rpcs")
	}
	text, _, _ = strings.Cut(text, "// A batch stream")
	all, service := map[string]bool{}, ""
	for line := range strings.SplitSeq(text, "\n") {
		rest, ok := strings.CutPrefix(line, "//\t")
		switch {
		case !ok:
		case !strings.HasPrefix(rest, " "):
			service = rest
		case !strings.HasPrefix(rest, "   "): // else what is said of them goes on
			names, _, _ := strings.Cut(strings.TrimSpace(rest), "  ")
			for name := range strings.SplitSeq(strings.TrimSuffix(names, ","), ", ") {
				all[service+"/"+name] = true
			}
		}
	}
	return all
}
