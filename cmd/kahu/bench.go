package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// benchLockTTL is the lease of a lock that a benchmark gives back at once.
const benchLockTTL = 30 * time.Second

// A target is what a load is put on: one connection to an agent. Its methods
// may be called concurrently.
type target interface {
	Put(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) error
	Lock(ctx context.Context, name, owner string) error
	Unlock(ctx context.Context, name, owner string) error
	CreateSequence(ctx context.Context, name string) error
	Next(ctx context.Context, name string) error
	// Script runs a script with its parameter @k, and returns its one value.
	Script(ctx context.Context, text, k string) (string, error)
	Close() error
}

// benchOptions are the flags of all loads.
type benchOptions struct {
	spec        load.Spec
	connections int
	valueBytes  int
	keys        int
	prefix      string
	http        bool
	// Of a Kahuna target: where, how many batch streams a connection has, and whether
	// what it writes may be lost.
	kahuna    string
	streams   int
	ephemeral bool
	access    kahunaAccess
}

func newBenchCommand(g *globals) *cobra.Command {
	var o benchOptions
	cmd := group("bench", "Put the agent under load and measure it",
		o.command(g, "put", "Set random keys of the key space", o.put),
		o.command(g, "get", "Read random keys, linearizable", o.get),
		o.command(g, "lock", "Take and give back a lock, one per caller: a pair is one operation", o.lock),
		o.command(g, "seq", "Take numbers from one hot sequence", o.seq),
		newBenchHostsCommand(g, &o),
		newBenchExecCommand(g, &o),
		o.command(g, "script", "Increment one hot counter, all callers the same one, by script", o.script),
	)
	cmd.Long = `Put the agent under load and measure it.

Without --rate every caller asks again as soon as it is answered. With --rate
operations are due at fixed instants, and latency counts from then, so that a
stall shows in every operation that it delayed.

With --kahuna the load comes as from a client of Kahuna: sets, reads, locks and
scripts on batch streams of gRPC, sequences one call each.

Keys, locks, the sequence and the counter begin with --prefix, and the keys stay.`
	cmd.Example = `  kahu bench put --callers 64
  kahu bench get --rate 5000 --duration 30s --output json
  kahu bench lock --http
  kahu bench put --kahuna http://127.0.0.1:2070 --callers 256
  kahu bench put --kahuna https://db1:2071 --kahuna-ca ca.pem --kahuna-token-file token`
	f := cmd.PersistentFlags()
	f.IntVar(&o.spec.Callers, "callers", 64, "operations at once")
	f.Float64Var(&o.spec.Rate, "rate", 0, "operations per second over all callers; 0 is as fast as answers come")
	f.DurationVar(&o.spec.Duration, "duration", 10*time.Second, "measured")
	f.DurationVar(&o.spec.Warmup, "warmup", 2*time.Second, "before that, not measured")
	f.IntVar(&o.connections, "connections", 1, "connections, shared by the callers in turn (--http: one per caller)")
	f.IntVar(&o.valueBytes, "value-size", 128, "`bytes` of a value")
	f.IntVar(&o.keys, "keys", 10_000, "different keys")
	f.StringVar(&o.prefix, "prefix", "bench/", "before every name")
	f.BoolVar(&o.http, "http", false, "speak HTTP on the socket, as curl does, in place of the stream")
	f.StringVar(&o.kahuna, "kahuna", "", "speak Kahuna's gRPC to this `URL`, or to \"socket\", the agent's own")
	f.IntVar(&o.streams, "streams", 1, "with --kahuna: batch streams on each connection, used in turn")
	f.BoolVar(&o.ephemeral, "ephemeral", false, "with --kahuna: ephemeral keys and locks")
	o.access.flags(f)
	cmd.MarkFlagsMutuallyExclusive("http", "kahuna")
	return cmd
}

// makeOp prepares the service and returns the operation.
type makeOp func(ctx context.Context, targets []target) (load.Op, error)

// command is one load.
func (o *benchOptions) command(g *globals, name, short string, prepare makeOp) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: arguments(),
		Example: "  kahu bench " + name + " --callers 64 --duration 10s\n  kahu bench " + name + " --callers 64 --rate 1000 --http",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return usageError(err.Error() + "; see kahu bench --help")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			result, err := o.measure(ctx, g, prepare)
			if result == nil {
				return err
			}
			if shown := g.show(result, result.WriteText); err == nil {
				err = shown
			}
			if err == nil && result.Operations == 0 {
				return withCode(exitRefused, errors.New("no operation succeeded"))
			}
			return err
		},
	}
}

func (o *benchOptions) check() error {
	switch {
	case o.connections < 1:
		return fmt.Errorf("--connections is %d; it must be at least 1", o.connections)
	case o.valueBytes < 0 || o.valueBytes > maxStdinBytes:
		return fmt.Errorf("--value-size is %d; it must be 0 to %d", o.valueBytes, maxStdinBytes)
	case o.streams < 1:
		return fmt.Errorf("--streams is %d; it must be at least 1", o.streams)
	case o.kahuna == "" && (o.ephemeral || o.streams != 1 || o.access != kahunaAccess{}):
		return errors.New("--streams, --ephemeral and --kahuna-… need --kahuna")
	case o.keys < 1:
		return fmt.Errorf("--keys is %d; it must be at least 1", o.keys)
	}
	return o.spec.Check()
}

// measure connects, prepares, runs the load, and asks what is still unflushed.
func (o *benchOptions) measure(ctx context.Context, g *globals, prepare makeOp) (*load.Result, error) {
	socket := client.DefaultSocket(g.socket)
	targets, err := o.connect(socket)
	defer func() {
		for _, t := range targets {
			t.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	op, err := prepare(ctx, targets)
	if err != nil {
		return nil, err
	}
	result, err := load.Run(ctx, o.spec, func(ctx context.Context, caller int, n uint64) error {
		ctx, cancel := context.WithTimeout(ctx, g.timeout)
		defer cancel()
		return op(ctx, caller, n)
	})
	if result != nil {
		result.Notes = g.benchNotes(context.WithoutCancel(ctx), socket)
	}
	return result, err
}

// benchNotes says what the agent had not yet written when the load ended, so
// that writing behind cannot flatter.
func (g *globals) benchNotes(ctx context.Context, socket string) map[string]string {
	ctx, cancel := g.deadline(ctx)
	defer cancel()
	c := client.New(client.Options{Socket: socket})
	defer c.Close()
	s, err := c.Status(ctx)
	switch {
	case err != nil:
		return map[string]string{"unflushed": "unknown: " + oneLine(err)}
	case s.Voter == nil:
		return map[string]string{"unflushed": "none here: this agent is a " + s.Role + " and stores nothing"}
	}
	return map[string]string{
		"agent": fmt.Sprintf("%s, %s on %s", s.Host, s.Voter.Raft, s.Storage),
		"unflushed": fmt.Sprintf("%d bytes in memory, durable in the log; engine at index %d of %d",
			s.Voter.UnflushedBytes, s.Voter.DurableIndex, s.Voter.AppliedIndex),
	}
}

// connect makes the targets, also some when it fails.
func (o *benchOptions) connect(socket string) (targets []target, err error) {
	if o.http {
		return []target{newHTTPTarget(socket, o.spec.Callers)}, nil
	}
	for range o.connections {
		if o.kahuna == "" {
			targets = append(targets, streamTarget{client.New(client.Options{Socket: socket})})
			continue
		}
		t, err := dialKahuna(o.kahuna, socket, o.streams, o.ephemeral, o.access)
		if err != nil {
			return targets, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func (o *benchOptions) key() string { return o.prefix + "key/" + strconv.Itoa(rand.IntN(o.keys)) }

// value is printable, so that a look at the data shows where it came from.
func (o *benchOptions) value() []byte {
	v := make([]byte, o.valueBytes)
	for i := range v {
		v[i] = 'v'
	}
	return v
}

func (o *benchOptions) put(_ context.Context, targets []target) (load.Op, error) {
	value := o.value()
	return func(ctx context.Context, caller int, _ uint64) error {
		return targets[caller%len(targets)].Put(ctx, o.key(), value)
	}, nil
}

func (o *benchOptions) get(ctx context.Context, targets []target) (load.Op, error) {
	if err := o.fill(ctx, targets); err != nil {
		return nil, err
	}
	return func(ctx context.Context, caller int, _ uint64) error {
		return targets[caller%len(targets)].Get(ctx, o.key())
	}, nil
}

// fillers is how many keys are set at once before reads.
const fillers = 64

// fill sets every key once.
func (o *benchOptions) fill(ctx context.Context, targets []target) error {
	value := o.value()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for i := range o.keys {
		group.Go(func() error {
			return targets[i%len(targets)].Put(ctx, o.prefix+"key/"+strconv.Itoa(i), value)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("filling the key space: %w", err)
	}
	return nil
}

func (o *benchOptions) lock(_ context.Context, targets []target) (load.Op, error) {
	owner := strconv.FormatUint(rand.Uint64(), 16) // another run must not pass for this one
	return func(ctx context.Context, caller int, _ uint64) error {
		t := targets[caller%len(targets)]
		name := o.prefix + "lock/" + strconv.Itoa(caller)
		if err := t.Lock(ctx, name, owner); err != nil {
			return err
		}
		return t.Unlock(ctx, name, owner)
	}, nil
}

func (o *benchOptions) seq(ctx context.Context, targets []target) (load.Op, error) {
	name := o.prefix + "seq"
	if err := targets[0].CreateSequence(ctx, name); err != nil {
		return nil, fmt.Errorf("creating the sequence: %w", err)
	}
	return func(ctx context.Context, caller int, _ uint64) error {
		return targets[caller%len(targets)].Next(ctx, name)
	}, nil
}

// streamTarget is the Go client.
type streamTarget struct{ *client.Client }

// Put sets a key.
func (t streamTarget) Put(ctx context.Context, key string, value []byte) error {
	_, err := t.KVSet(ctx, key, value, client.WriteOptions{})
	return err
}

// Get reads a key, which must exist.
func (t streamTarget) Get(ctx context.Context, key string) error {
	_, err := t.KVGet(ctx, key, client.ReadOptions{})
	return err
}

// Lock takes a lock that is free.
func (t streamTarget) Lock(ctx context.Context, name, owner string) error {
	_, err := t.LockTry(ctx, name, []byte(owner), benchLockTTL, client.LockOptions{})
	return err
}

// Unlock gives it back.
func (t streamTarget) Unlock(ctx context.Context, name, owner string) error {
	return t.LockUnlock(ctx, name, []byte(owner), client.LockOptions{})
}

// CreateSequence makes sure that the sequence exists.
func (t streamTarget) CreateSequence(ctx context.Context, name string) error {
	_, err := t.SequenceCreate(ctx, name, wire.SequenceCreate{})
	if errors.Is(err, client.ErrExists) {
		return nil
	}
	return err
}

// Next takes a number.
func (t streamTarget) Next(ctx context.Context, name string) error {
	_, err := t.SequenceNext(ctx, name, "")
	return err
}
