package rest_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// Every route of Kahuna's server is one here, and in the package documentation.
func TestEveryRouteOfKahuna(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("testdata/kahuna-routes.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := serve(t, realService(t, newQuorum(t)), 0)["HTTP/1.1"]
	n, all := 0, map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		method, path, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "+ "), " ")
		if !ok || method == "#" {
			continue
		}
		n++
		all[method+" "+path] = true
		req, err := http.NewRequestWithContext(t.Context(), method, "http://kahuna"+strings.ReplaceAll(path, "{id}", "00000000-0000-0000-0000-000000000000"), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusNotFound && strings.Contains(string(body), "there is no route") || res.StatusCode == http.StatusMethodNotAllowed {
			t.Errorf("%s %s is answered %d %s", method, path, res.StatusCode, body)
		}
		if !inTable(string(doc), method, path) {
			t.Errorf("the table in doc.go does not have %s %s", method, path)
		}
	}
	for _, one := range rest.Routes() {
		if !all[one] {
			t.Errorf("%s is a route, and Kahuna does not have it", one)
		}
	}
	if n != 55 {
		t.Errorf("%d routes are listed; Kahuna had 55 when they were", n)
	}
}

// inTable finds a route in the table, where {a|b} stands for several.
func inTable(doc, method, path string) bool {
	for line := range strings.SplitSeq(doc, "\n") {
		row := strings.Fields(strings.TrimPrefix(line, "//\t"))
		if !strings.HasPrefix(line, "//\t") || len(row) < 2 || row[1] != method {
			continue
		}
		before, choice, some := strings.Cut(row[0], "{")
		names, after, _ := strings.Cut(choice, "}")
		if !some || !strings.Contains(names, "|") {
			if row[0] == path {
				return true
			}
			continue
		}
		for name := range strings.SplitSeq(names, "|") {
			if before+name+after == path {
				return true
			}
		}
	}
	return false
}
