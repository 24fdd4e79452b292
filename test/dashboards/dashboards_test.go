package dashboards_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kahu-sh/kahu/integrations/grafana"
	"github.com/kahu-sh/kahu/test/cluster"
)

const dir = "../../integrations/grafana/"

func TestDashboardIsFresh(t *testing.T) {
	want, err := grafana.Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(got), want) {
		t.Error("dashboard.json is not what its package makes: run go generate ./integrations/grafana")
	}
}

// rule is what is read of alerts.yml.
type rule struct {
	Alert       string
	Expr        string
	Annotations map[string]string
}

func rules(t *testing.T) (out []rule) {
	t.Helper()
	text, err := os.ReadFile(dir + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

var metric = regexp.MustCompile(`\b(?:kahu|process|go)_[a-z0-9_]+\b`)

func TestEveryMetricIsExported(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary, err := cluster.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	c, err := cluster.Start(ctx, cluster.Options{Binary: binary, Voters: 1, Args: append(ownPKI(t), "--http", address)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	// One of each, so that metrics with labels have a sample.
	for _, args := range [][]string{{"kv", "set", "a", "b"}, {"exec", "--lock", "a", "--", "true"}} {
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = append(os.Environ(), "KAHU_SOCKET="+c.Agents[0].Socket)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kahu %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	exported, text := scrape(t, "http://"+address+"/metrics")
	asked := map[string]string{}
	for _, r := range rules(t) {
		asked[r.Expr] = "alert " + r.Alert
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("alert %s does not say what to do", r.Alert)
		}
	}
	for _, e := range grafana.Expressions() {
		asked[e] = "dashboard"
	}
	for expr, by := range asked {
		names := metric.FindAllString(expr, -1)
		for _, name := range names {
			if !exported[name] {
				t.Errorf("%s asks for %s, which no agent exports: %s", by, name, expr)
			}
		}
		if len(names) == 0 && !strings.HasPrefix(expr, "up{") {
			t.Errorf("%s asks for nothing: %s", by, expr)
		}
	}
	promtool(t, text, "check", "metrics")
}

// scrape returns the names of all samples, and the page.
func scrape(t *testing.T, url string) (names map[string]bool, page []byte) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if page, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	names = make(map[string]bool)
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		if line := lines.Text(); !strings.HasPrefix(line, "#") {
			names[line[:strings.IndexAny(line, "{ ")]] = true
		}
	}
	return names, page
}

func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not installed (apt-get install prometheus): its checks are left out")
		return
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	// Warnings about style end with 3; those of other people's collectors are not ours.
	if out, err := cmd.CombinedOutput(); err != nil && bytes.Contains(out, []byte("kahu_")) {
		t.Errorf("promtool %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestRulesAreValid(t *testing.T) {
	promtool(t, nil, "check", "rules", dir+"alerts.yml")
	promtool(t, nil, "test", "rules", "testdata/alerts_test.yml")
}
