package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Options say what to run. The zero value of a field is its default.
type Options struct {
	Binary  string   // path of kahu; see Build. Required
	Dir     string   // parent of the temporary folder (os.TempDir). Keep it short: socket paths end at 107 bytes
	Voters  int      // 3
	Proxies int      // 0
	Storage string   // "sqlite"
	Args    []string // further arguments of every agent
	Env     []string // further environment of every agent, as KEY=VALUE
	Places  []Place  // where the agents run, voters first; none: all on loopback
}

// A Place is where one agent runs.
type Place struct {
	Bind      string // host:port that it listens on
	Namespace string // name of a network namespace (ip netns); empty: this program's own
}

// A Cluster is a set of agents on loopback.
type Cluster struct {
	Dir    string
	Agents []*Agent // voters first

	options    Options
	binary     string
	secretFile string
	spawner    *spawner
}

// Start starts all agents and blocks until each of them serves, or ctx ends.
// On an error everything is stopped and removed, and the error has the ends of
// the logs.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c, err := New(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, a := range c.Agents {
		if err := a.Start(); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	if err := c.WaitServing(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, c.Logs(15)), c.Stop())
	}
	return c, nil
}

// New makes the folder, the secret and the agents, and starts none of them.
func New(ctx context.Context, o Options) (*Cluster, error) {
	if o.Binary == "" {
		return nil, errors.New("cluster: Options.Binary is required")
	}
	if o.Voters == 0 {
		o.Voters = 3
	}
	if o.Storage == "" {
		o.Storage = "sqlite"
	}
	dir, err := os.MkdirTemp(o.Dir, "kahu-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the cluster: %w", err)
	}
	c := &Cluster{Dir: dir, options: o, binary: o.Binary, secretFile: filepath.Join(dir, "secret")}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.spawner = newSpawner()
	return c, nil
}

// prepare makes everything that is on disk before an agent starts.
func (c *Cluster) prepare(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, c.binary, "keygen", c.secretFile).CombinedOutput(); err != nil {
		return fmt.Errorf("kahu keygen: %w: %s", err, out)
	}
	n := c.options.Voters + c.options.Proxies
	places, err := c.places(ctx, n)
	if err != nil {
		return err
	}
	for i := range n {
		a := &Agent{Name: fmt.Sprintf("voter%d", i+1), Voter: i < c.options.Voters, Bind: places[i].Bind, namespace: places[i].Namespace, cluster: c}
		if !a.Voter {
			a.Name = fmt.Sprintf("proxy%d", i-c.options.Voters+1)
		}
		a.Dir = filepath.Join(c.Dir, a.Name)
		a.Socket = filepath.Join(a.Dir, "kahu.sock")
		if err := os.Mkdir(a.Dir, 0o700); err != nil {
			return fmt.Errorf("making the folder of agent %s: %w", a.Name, err)
		}
		c.Agents = append(c.Agents, a)
	}
	return nil
}

// places are n places, of Options or on loopback.
func (c *Cluster) places(ctx context.Context, n int) ([]Place, error) {
	if given := c.options.Places; given != nil {
		if len(given) != n {
			return nil, fmt.Errorf("cluster: Options.Places has %d entries for %d agents", len(given), n)
		}
		return given, nil
	}
	binds, err := FreePorts(ctx, n)
	if err != nil {
		return nil, err
	}
	places := make([]Place, n)
	for i, bind := range binds {
		places[i].Bind = bind
	}
	return places, nil
}

// joins are the addresses of the voters besides a.
func (c *Cluster) joins(a *Agent) []string {
	var addresses []string
	for _, other := range c.Voters() {
		if other != a {
			addresses = append(addresses, other.Bind)
		}
	}
	return addresses
}

// AddUpstream makes one more agent, not started, that is no part of the cluster but
// stands in front of servers of Kahuna's wire, whose URLs are given.
func (c *Cluster) AddUpstream(name string, urls ...string) (*Agent, error) {
	a := &Agent{Name: name, Dir: filepath.Join(c.Dir, name), cluster: c, upstream: urls}
	a.Socket = filepath.Join(a.Dir, "kahu.sock")
	if err := os.Mkdir(a.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of agent %s: %w", a.Name, err)
	}
	c.Agents = append(c.Agents, a)
	return a, nil
}

// Voters are the agents that vote.
func (c *Cluster) Voters() []*Agent { return c.Agents[:c.options.Voters] }

// Proxies are the agents that do not.
func (c *Cluster) Proxies() []*Agent { return c.Agents[c.options.Voters:] }

// SecretFile is the path of the cluster's secret.
func (c *Cluster) SecretFile() string { return c.secretFile }

// Logs are the last lines of every agent's log, for messages.
func (c *Cluster) Logs(lines int) string {
	text := ""
	for _, a := range c.Agents {
		text += fmt.Sprintf("-- %s\n%s\n", a.Name, a.LogTail(lines))
	}
	return text
}

// Stop kills every agent, waits until all are reaped, and removes the folder.
func (c *Cluster) Stop() error {
	for _, a := range c.Agents {
		if a.Running() {
			_ = a.process.Load().signal(syscall.SIGKILL) // reaped below
		}
	}
	for _, a := range c.Agents {
		if a.process.Load() != nil {
			<-a.process.Load().exited
		}
	}
	c.spawner.close()
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("removing the cluster's folder: %w", err)
	}
	return nil
}
