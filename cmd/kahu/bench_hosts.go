package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
)

// benchHosts is a load of holds that nobody does anything with: what a cluster
// does while nothing happens.
type benchHosts struct {
	o          *benchOptions
	hosts      int
	holds      int
	ttl        time.Duration
	join       []string
	secretFile string
}

// hostsResult is what was measured. Entries are of Raft's log: renewals of
// sessions, and the digest that the leader writes each second.
type hostsResult struct {
	Hosts            int     `json:"hosts"`
	HoldsPerHost     int     `json:"holds_per_host"`
	TTLMS            int64   `json:"ttl_ms"`
	OpenedMS         int64   `json:"opened_ms"` // until the last hold was held
	MeasuredMS       int64   `json:"measured_ms"`
	EntriesPerSecond float64 `json:"log_entries_per_second"`
	BytesPerSecond   float64 `json:"log_bytes_per_second"`
	// HoldRenewalsPerSecond would be needed if each hold were renewed by itself;
	// SessionRenewalsPerSecond is what one session for each host needs.
	HoldRenewalsPerSecond    float64 `json:"hold_renewals_per_second"`
	SessionRenewalsPerSecond float64 `json:"session_renewals_per_second"`
	AgentCPU                 float64 `json:"agent_cpu_percent"` // of a core, by the agent of --socket
	HostsCPU                 float64 `json:"hosts_cpu_percent"` // of a core, by this process and all proxies in it
	Lost                     int     `json:"lost"`
}

// WriteText is the result for people.
func (r *hostsResult) WriteText(w io.Writer) error {
	_, err := fmt.Fprintf(w, `%d hosts with %d holds each, TTL %s, held after %.1f s; measured %.1f s
log entries   %.1f/s: renewals, of which several may share one, and digests by the leader
renewals      %.1f/s, one for each session and interval; hold by hold it would be %.0f/s
log bytes     %.0f/s
cpu           %.1f %% of a core in the agent, %.1f %% in this process
lost holds    %d
`, r.Hosts, r.HoldsPerHost, time.Duration(r.TTLMS)*time.Millisecond, float64(r.OpenedMS)/1000, float64(r.MeasuredMS)/1000,
		r.EntriesPerSecond, r.SessionRenewalsPerSecond, r.HoldRenewalsPerSecond, r.BytesPerSecond, r.AgentCPU, r.HostsCPU, r.Lost)
	return err
}

// notForHosts are the flags of the other loads.
var notForHosts = []string{"rate", "connections", "value-size", "keys", "http", "kahuna", "streams", "ephemeral", "kahuna-skip-verify"}

func newBenchHostsCommand(g *globals, o *benchOptions) *cobra.Command {
	b := benchHosts{o: o}
	cmd := &cobra.Command{
		Use: "hosts", Short: "Keep many holds on many hosts, and measure what they cost while nothing happens", Args: arguments(),
		Long: `Keep many holds on many hosts, and measure what they cost while nothing happens.

With --hosts so many proxies run in this process; each joins the cluster and
keeps --holds locks. Without, the agent of --socket keeps them all. --socket must
be a voter's: its log is what is measured. --callers holds are opened at once.`,
		Example: `  kahu bench hosts --holds 10000
  kahu bench hosts --hosts 100 --holds 100 --join 10.0.0.1:7350 --secret-file /etc/kahu/secret
  kahu bench hosts --holds 1000 --duration 1m --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := b.check(cmd); err != nil {
				return usageError(err.Error() + "; see kahu bench hosts --help")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			result, err := b.measure(ctx, g)
			if err != nil {
				return err
			}
			if err := g.show(result, result.WriteText); err != nil {
				return err
			}
			if result.Lost > 0 {
				return withCode(exitRefused, fmt.Errorf("%d holds were lost", result.Lost))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.hosts, "hosts", 0, "proxies in this process; 0: the agent of --socket keeps the holds")
	f.IntVar(&b.holds, "holds", 100, "locks that each host keeps")
	f.DurationVar(&b.ttl, "ttl", 30*time.Second, "lease of each")
	f.StringSliceVar(&b.join, "join", nil, "with --hosts: `HOST:PORT` of voters")
	f.StringVar(&b.secretFile, "secret-file", "", "with --hosts: `file` with the cluster secret")
	return cmd
}

func (b *benchHosts) check(cmd *cobra.Command) error {
	for _, name := range notForHosts {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is for the other loads", name)
		}
	}
	switch {
	case b.hosts < 0 || b.hosts > 1000:
		return fmt.Errorf("--hosts is %d; it must be 0 to 1000", b.hosts)
	case b.holds < 1:
		return fmt.Errorf("--holds is %d; it must be at least 1", b.holds)
	case b.hosts > 0 && (len(b.join) == 0 || b.secretFile == ""):
		return errors.New("--hosts needs --join and --secret-file")
	case b.hosts == 0 && (len(b.join) > 0 || b.secretFile != ""):
		return errors.New("--join and --secret-file need --hosts")
	}
	return b.o.spec.Check()
}

// measure opens the holds, watches them, and gives them back.
func (b *benchHosts) measure(ctx context.Context, g *globals) (result *hostsResult, err error) {
	socket := client.DefaultSocket(g.socket)
	watch := client.New(client.Options{Socket: socket})
	defer watch.Close()
	if _, err := b.sample(ctx, g, watch); err != nil {
		return nil, err // before anything is started
	}
	sockets, stop, err := b.start(ctx, socket)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	holds, end, err := b.open(ctx, sockets)
	defer end()
	if err != nil {
		return nil, err
	}
	r := &hostsResult{Hosts: len(sockets), HoldsPerHost: b.holds, TTLMS: b.ttl.Milliseconds(), OpenedMS: time.Since(began).Milliseconds()}
	if err := wait(ctx, b.o.spec.Warmup); err != nil {
		return nil, err
	}
	first, err := b.sample(ctx, g, watch)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, b.o.spec.Duration); err != nil {
		return nil, err
	}
	last, err := b.sample(ctx, g, watch)
	if err != nil {
		return nil, err
	}
	took := last.at.Sub(first.at)
	r.MeasuredMS = took.Milliseconds()
	r.EntriesPerSecond = float64(last.index-first.index) / took.Seconds()
	r.BytesPerSecond = float64(last.bytes-first.bytes) / took.Seconds()
	r.AgentCPU = 100 * (last.agentCPU - first.agentCPU) / took.Seconds()
	r.HostsCPU = 100 * (last.ownCPU - first.ownCPU).Seconds() / took.Seconds()
	interval := b.ttl / 4 // DESIGN.md §3
	r.SessionRenewalsPerSecond = float64(len(sockets)) / interval.Seconds()
	r.HoldRenewalsPerSecond = r.SessionRenewalsPerSecond * float64(b.holds)
	for _, h := range holds {
		if h.State() != "held" {
			r.Lost++
		}
	}
	return r, nil
}

// wait lets time pass, which is what is measured.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A hostsSample is what the voter and this process say of themselves.
type hostsSample struct {
	at       time.Time
	index    uint64
	bytes    int64
	agentCPU float64 // seconds
	ownCPU   time.Duration
}

func (b *benchHosts) sample(ctx context.Context, g *globals, c *client.Client) (s hostsSample, err error) {
	ctx, cancel := g.deadline(ctx)
	defer cancel()
	status, err := c.Status(ctx)
	if err != nil {
		return s, err
	}
	if status.Voter == nil {
		return s, fmt.Errorf("the agent %s is a proxy and has no log to measure; name a voter's socket with --socket", status.Host)
	}
	s.at, s.index, s.bytes, s.ownCPU = time.Now(), status.Voter.AppliedIndex, status.Voter.LogBytes, ownCPU()
	s.agentCPU, err = agentCPU(ctx, c.Socket())
	return s, err
}

// agentCPU is what the agent has used, in seconds, from its metrics.
func agentCPU(ctx context.Context, socket string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kahu/metrics", nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("reading the agent's metrics: %w", err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "process_cpu_seconds_total "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("the agent's metrics (%s) do not say what CPU it used", response.Status)
}

// holdsPerClient is below what one connection to an agent carries.
const holdsPerClient = 1000

// open takes all locks. end gives them back.
func (b *benchHosts) open(ctx context.Context, sockets []string) (holds []*client.Hold, end func(), err error) {
	perHost := 1 + (b.holds-1)/holdsPerClient
	var clients []*client.Client // of the first host, then of the next
	for _, socket := range sockets {
		for range perHost {
			clients = append(clients, client.New(client.Options{Socket: socket}))
		}
	}
	holds = make([]*client.Hold, len(sockets)*b.holds)
	end = func() {
		for _, c := range clients {
			c.Close() // the connection is the witness: the holds end with it
		}
		for _, h := range holds {
			if h != nil {
				_ = h.Close() // always nil
			}
		}
	}
	group, opening := errgroup.WithContext(ctx)
	group.SetLimit(b.o.spec.Callers)
	for i := range holds {
		host, nth := i%len(sockets), i/len(sockets)
		c := clients[host*perHost+nth%perHost]
		group.Go(func() (err error) {
			holds[i], err = c.Hold(opening, client.HoldOptions{Lock: fmt.Sprintf("%shold/%d/%d", b.o.prefix, host, nth), TTL: b.ttl, Wait: time.Minute})
			return err
		})
	}
	return holds, end, group.Wait()
}

// start runs the proxies and waits until they serve. stop ends them.
func (b *benchHosts) start(ctx context.Context, own string) (sockets []string, stop func() error, err error) {
	if b.hosts == 0 {
		return []string{own}, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "kahu-bench-")
	if err != nil {
		return nil, func() error { return nil }, err
	}
	running, cancel := context.WithCancel(ctx)
	var agents sync.WaitGroup
	failed := make(chan error, b.hosts)
	stop = func() error {
		cancel()
		agents.Wait()
		return os.RemoveAll(dir)
	}
	ready := make(chan struct{}, b.hosts)
	for i := range b.hosts {
		cfg, err := b.proxy(filepath.Join(dir, strconv.Itoa(i)), i)
		if err != nil {
			return nil, stop, err
		}
		sockets = append(sockets, cfg.Socket)
		agents.Go(func() { // ends with running
			if err := agent.Run(running, cfg, agent.Options{
				Version: programVersion(), Logger: slog.New(slog.DiscardHandler), Exit: os.Exit, Ready: func() { ready <- struct{}{} },
			}); err != nil && running.Err() == nil {
				failed <- fmt.Errorf("proxy %d of this process: %w", i, err)
			}
		})
	}
	for range b.hosts {
		select {
		case <-ready:
		case err := <-failed:
			return nil, stop, err
		case <-ctx.Done():
			return nil, stop, context.Cause(ctx)
		}
	}
	return sockets, stop, nil
}

// proxy is the configuration of one.
func (b *benchHosts) proxy(dir string, i int) (config.Config, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return config.Config{}, err
	}
	bind, err := freeAddress()
	if err != nil {
		return config.Config{}, err
	}
	secret, err := filepath.Abs(b.secretFile)
	if err != nil {
		return config.Config{}, err
	}
	flags := pflag.NewFlagSet("proxy", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse([]string{
		"--config", os.DevNull, "--node-name", fmt.Sprintf("bench-%d-%d", os.Getpid(), i), "--role", "proxy", "--gossip", "off",
		"--data-dir", dir, "--socket", filepath.Join(dir, "s"), "--bind", bind, "--join", strings.Join(b.join, ","), "--secret-file", secret,
	}); err != nil {
		return config.Config{}, err
	}
	cfg, err := config.Load(config.ThisHost(), flags)
	if err != nil {
		return config.Config{}, fmt.Errorf("configuring a proxy: %w", err)
	}
	return cfg, nil
}

// freeAddress is one that nobody listens on now. Nobody has to reach a proxy.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a port for a proxy: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0 // it cannot fail with these arguments
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
