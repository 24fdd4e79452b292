// Command load puts etcd under the same loads as kahu bench, with the same
// generator, and writes the same JSON.
//
//	load --endpoints 127.0.0.1:2379 --callers 64 --duration 10s put|get|lock|seq|script
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
)

// options are the flags; they mean what those of kahu bench mean.
type options struct {
	endpoints   string
	connections int
	valueSize   int
	keys        int
	prefix      string
	timeout     time.Duration
}

func main() {
	var o options
	var spec load.Spec
	flag.StringVar(&o.endpoints, "endpoints", "127.0.0.1:2379", "comma-separated")
	flag.IntVar(&o.connections, "connections", 1, "HTTP/2 connections, shared by the callers in turn")
	flag.IntVar(&o.valueSize, "value-size", 128, "bytes of a value")
	flag.IntVar(&o.keys, "keys", 10_000, "different keys")
	flag.StringVar(&o.prefix, "prefix", "bench/", "before every name")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "of one operation")
	flag.IntVar(&spec.Callers, "callers", 64, "operations at once")
	flag.Float64Var(&spec.Rate, "rate", 0, "operations per second; 0: as fast as answers come")
	flag.DurationVar(&spec.Warmup, "warmup", 2*time.Second, "not measured")
	flag.DurationVar(&spec.Duration, "duration", 10*time.Second, "measured")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, spec, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "etcd load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, spec load.Spec, name string) error {
	if err := spec.Check(); err != nil {
		return err
	}
	clients := make([]*clientv3.Client, o.connections)
	for i := range clients {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(o.endpoints, ","), DialTimeout: 5 * time.Second})
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", o.endpoints, err)
		}
		defer c.Close()
		clients[i] = c
	}
	op, err := o.operation(ctx, clients, spec, name)
	if err != nil {
		return err
	}
	bounded := func(ctx context.Context, caller int, n uint64) error {
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		return op(ctx, caller, n)
	}
	result, err := load.Run(ctx, spec, bounded)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// operation makes the load's operation, and what it needs to exist.
func (o options) operation(ctx context.Context, clients []*clientv3.Client, spec load.Spec, name string) (load.Op, error) {
	of := func(caller int) *clientv3.Client { return clients[caller%len(clients)] }
	key := func() string { return o.prefix + "key/" + strconv.Itoa(rand.IntN(o.keys)) }
	value := strings.Repeat("v", o.valueSize)
	switch name {
	case "put":
		return func(ctx context.Context, caller int, _ uint64) error {
			_, err := of(caller).Put(ctx, key(), value)
			return err
		}, nil
	case "get":
		if err := o.fill(ctx, clients, value); err != nil {
			return nil, err
		}
		return func(ctx context.Context, caller int, _ uint64) error {
			answer, err := of(caller).Get(ctx, key()) // linearizable
			if err == nil && len(answer.Kvs) != 1 {
				return errors.New("a key that was set is missing")
			}
			return err
		}, nil
	case "lock":
		return o.locks(clients, spec)
	case "seq", "script":
		// One counter for all callers, by software transactional memory: what etcd
		// has for reading, deciding and writing as one.
		counter := o.prefix + map[string]string{"seq": "seq", "script": "counter"}[name]
		return func(ctx context.Context, caller int, _ uint64) error {
			_, err := concurrency.NewSTM(of(caller), func(stm concurrency.STM) error {
				n, _ := strconv.ParseInt(stm.Get(counter), 10, 64) // absent is 0
				stm.Put(counter, strconv.FormatInt(n+1, 10))
				return nil
			}, concurrency.WithAbortContext(ctx))
			return err
		}, nil
	}
	return nil, fmt.Errorf("no load %q; there are put, get, lock, seq and script", name)
}

// locks takes and gives back one lock per caller, without contention, all of a
// connection under one session, as etcd recommends.
func (o options) locks(clients []*clientv3.Client, spec load.Spec) (load.Op, error) {
	mutexes := make([]*concurrency.Mutex, spec.Callers)
	for i, c := range clients {
		session, err := concurrency.NewSession(c, concurrency.WithTTL(30))
		if err != nil {
			return nil, fmt.Errorf("opening a session: %w", err)
		}
		for caller := i; caller < spec.Callers; caller += len(clients) {
			mutexes[caller] = concurrency.NewMutex(session, fmt.Sprintf("%slock/%d", o.prefix, caller))
		}
	}
	return func(ctx context.Context, caller int, _ uint64) error {
		if err := mutexes[caller].Lock(ctx); err != nil {
			return err
		}
		return mutexes[caller].Unlock(ctx)
	}, nil
}

// fill sets every key once, 128 to a transaction, which is etcd's limit.
func (o options) fill(ctx context.Context, clients []*clientv3.Client, value string) error {
	const most = 128
	for from := 0; from < o.keys; from += most {
		var ops []clientv3.Op
		for i := from; i < min(from+most, o.keys); i++ {
			ops = append(ops, clientv3.OpPut(o.prefix+"key/"+strconv.Itoa(i), value))
		}
		if _, err := clients[0].Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("filling the keys: %w", err)
		}
	}
	return nil
}
