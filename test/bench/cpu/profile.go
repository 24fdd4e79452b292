package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kahu-sh/kahu/test/bench/proc"
)

// profile is the CPU time of one process by part of the code.
type profile struct {
	parts map[string]time.Duration
	err   error
}

// fetchProfile asks an agent's profiler, and blocks for duration.
func fetchProfile(ctx context.Context, dir string, pid int, load string, duration time.Duration) (p profile) {
	socket := filepath.Join(dir, fmt.Sprintf("%d.sock", pid))
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	url := fmt.Sprintf("http://agent/debug/pprof/profile?seconds=%d", int(duration.Seconds()))
	var req *http.Request
	if req, p.err = http.NewRequestWithContext(ctx, http.MethodGet, url, nil); p.err != nil {
		return p
	}
	resp, err := client.Do(req)
	if err != nil {
		p.err = fmt.Errorf("the profiler of process %d: %w", pid, err)
		return p
	}
	defer resp.Body.Close()
	path := filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", load, pid))
	var body []byte
	if body, p.err = io.ReadAll(resp.Body); p.err != nil {
		return p
	}
	if p.err = os.WriteFile(path, body, 0o600); p.err != nil {
		return p
	}
	traces, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		p.err = fmt.Errorf("go tool pprof -traces %s: %w", path, err)
		return p
	}
	p.parts, p.err = parts(traces)
	return p
}

// parts adds up the stacks that pprof -traces prints: a time with the leaf in
// the first line of each, then its callers.
func parts(traces []byte) (map[string]time.Duration, error) {
	sums := map[string]time.Duration{}
	var spent time.Duration
	var stack []string
	flush := func() {
		if spent > 0 {
			sums[partOf(stack)] += spent
		}
		spent, stack = 0, stack[:0]
	}
	lines := bufio.NewScanner(bytes.NewReader(traces))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "-----") {
			flush()
			continue
		}
		fields := strings.Fields(strings.TrimSuffix(line, " (inline)"))
		if len(fields) == 2 && len(stack) == 0 {
			if d, err := time.ParseDuration(fields[0]); err == nil {
				spent, fields = d, fields[1:]
			}
		}
		if spent > 0 && len(fields) == 1 {
			stack = append(stack, fields[0])
		}
	}
	flush()
	return sums, lines.Err()
}

// partOf names what a stack worked for: the package nearest to its leaf that is
// kahu's or does a job for it; memory and system calls count for who asked.
func partOf(stack []string) string {
	part := ""
	for _, frame := range stack {
		switch {
		case strings.HasPrefix(frame, "github.com/kahu-sh/kahu/storage/memtable.(*Store).flush"):
			return cmp.Or(part, "storage/memtable") + " (flush)"
		case part != "":
		case strings.HasPrefix(frame, "github.com/kahu-sh/kahu/"):
			part = packageOf(strings.TrimPrefix(frame, "github.com/kahu-sh/kahu/"))
		case strings.HasPrefix(frame, "modernc.org/"):
			part = "storage/sqlite"
		case strings.HasPrefix(frame, "github.com/hashicorp/"), strings.HasPrefix(frame, "crypto/tls."):
			part = packageOf(frame)
		case strings.HasPrefix(frame, "runtime.gcBgMarkWorker"), strings.HasPrefix(frame, "runtime.bgsweep"),
			strings.HasPrefix(frame, "runtime.bgscavenge"):
			part = "(garbage collection)"
		}
	}
	return cmp.Or(part, "(scheduler and the rest)")
}

// packageOf cuts a function's name down to its package.
func packageOf(function string) string {
	slash := strings.LastIndexByte(function, '/') + 1
	if dot := strings.IndexByte(function[slash:], '.'); dot >= 0 {
		return function[:slash+dot]
	}
	return function
}

// writeParts prints CPU per operation by part and process, largest first. Each
// profile's shares are laid over what the kernel counted, so that they add up.
func writeParts(w io.Writer, profiles []profile, used []proc.Usage, n float64) error {
	sums := map[string]float64{}
	shares := make([]map[string]float64, len(profiles))
	for i, p := range profiles {
		if p.err != nil {
			return p.err
		}
		var all time.Duration
		for _, d := range p.parts {
			all += d
		}
		shares[i] = map[string]float64{}
		for part, d := range p.parts {
			shares[i][part] = us(used[i].CPU) / n * float64(d) / float64(all)
			sums[part] += shares[i][part]
		}
	}
	names := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Compare(sums[b], sums[a]) })
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "part\tµs/op, all\tleader\tfollowers")
	for _, name := range names {
		if sums[name] < 0.1 {
			continue
		}
		fmt.Fprintf(out, "%s\t%.1f", name, sums[name])
		for _, s := range shares {
			fmt.Fprintf(out, "\t%.1f", s[name])
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}
