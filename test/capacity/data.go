package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/test/cluster"
)

const (
	keyPrefix = "million/"
	// writeBatch is how many keys one request sets, and writers how many requests
	// are in flight: enough to keep a quorum busy, and 1 MiB in all.
	writeBatch = 16
	writers    = 64
	// listPage keys fill the largest page of values (replication.MaxPageBytes).
	listPage             = 4000
	randomReads, readers = 50_000, 64
)

func keyOf(i int) string { return fmt.Sprintf("%s%08d", keyPrefix, i) }

// valueOf is the value of key i: no compression helps, and it can be made again.
func valueOf(i, size int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	v := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(v) // never fails
	return v
}

// setBatch sets the keys from first on, as many as a batch has, in one request.
func setBatch(ctx context.Context, c *client.Client, first, keys, size int) error {
	w := &replication.Write{}
	for i := first; i < min(first+writeBatch, keys); i++ {
		w.Items = append(w.Items, &replication.WriteItem{
			Durability: replication.Durability_DURABILITY_PERSISTENT, Key: keyOf(i), Value: valueOf(i, size), NoHistory: true,
		})
	}
	answer, err := c.Do(ctx, &replication.Request{Op: &replication.Request_Write{Write: w}})
	if err == nil {
		err = client.Refusal(answer)
	}
	if err != nil {
		return err
	}
	for i, item := range answer.GetWritten().GetItems() {
		if item.GetCode() != replication.Code_CODE_OK {
			return fmt.Errorf("%s was refused: %s", keyOf(first+i), item.GetCode())
		}
	}
	return nil
}

// fill sets the first keys once each, in order but for what is in flight.
func fill(ctx context.Context, a *cluster.Agent, keys, size int) error {
	c := a.Dial()
	defer c.Close()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for {
				first := int(next.Add(writeBatch)) - writeBatch
				if first >= keys {
					return nil
				}
				if err := setBatch(ctx, c, first, keys, size); err != nil {
					return fmt.Errorf("setting %s and the keys after it: %w", keyOf(first), err)
				}
			}
		})
	}
	return group.Wait()
}

// load sets keys again and again, through all voters, until stop is called. It
// expects agents to be killed: errors count for nothing. stop returns how many
// requests were acknowledged.
func load(ctx context.Context, c *cluster.Cluster, keys, size int) (stop func() int64) {
	ctx, cancel := context.WithCancel(ctx)
	var acknowledged atomic.Int64
	var group errgroup.Group
	clients := make([]*client.Client, len(c.Voters()))
	for i, a := range c.Voters() {
		clients[i] = a.Dial()
	}
	for w := range writers {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(w), 0))
			pause := time.NewTicker(10 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				first := random.IntN(keys - writeBatch + 1)
				err := setBatch(ctx, clients[w%len(clients)], first, keys, size)
				if err == nil {
					acknowledged.Add(1)
					continue
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
			return nil
		})
	}
	return func() int64 {
		cancel()
		_ = group.Wait() // always nil
		for _, c := range clients {
			_ = c.Close() // always nil
		}
		return acknowledged.Load()
	}
}

// readAll lists every key with its value, page by page, and compares.
func readAll(ctx context.Context, a *cluster.Agent, keys, size int) error {
	c := a.Dial()
	defer c.Close()
	page, seen := client.Page{Limit: listPage}, 0
	for {
		entries, err := c.KVList(ctx, keyPrefix, page, client.ReadOptions{})
		if err != nil {
			return fmt.Errorf("listing keys after %q: %w", page.After, err)
		}
		for _, e := range entries.Entries {
			if err := compare(e, seen, size); err != nil {
				return err
			}
			seen++
		}
		if entries.Next == "" {
			break
		}
		page.After = entries.Next
	}
	if seen != keys {
		return fmt.Errorf("%d keys are there, and %d were set", seen, keys)
	}
	return nil
}

func compare(e wire.Entry, i, size int) error {
	if e.Key != keyOf(i) {
		return fmt.Errorf("%s is listed where %s should be", e.Key, keyOf(i))
	}
	if !bytes.Equal(e.Value, valueOf(i, size)) {
		return fmt.Errorf("%s has a value that nobody set", e.Key)
	}
	return nil
}

// readRandomly gets single keys, linearizably.
func readRandomly(ctx context.Context, a *cluster.Agent, keys, size int) error {
	c := a.Dial()
	defer c.Close()
	group, ctx := errgroup.WithContext(ctx)
	for r := range readers {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(r), 1))
			for range randomReads / readers {
				i := random.IntN(keys)
				e, err := c.KVGet(ctx, keyOf(i), client.ReadOptions{})
				if err == nil {
					err = compare(e, i, size)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// serves blocks until the agent has answered a linearizable read of a key, with
// the right value, and then a write.
func serves(ctx context.Context, a *cluster.Agent, key, size int) error {
	c := a.Dial()
	defer c.Close()
	err := cluster.Wait(ctx, "a read through "+a.Name+" is answered", func(ctx context.Context) (bool, error) {
		if !a.Running() {
			return false, errors.New("its process has ended:\n" + a.LogTail(15))
		}
		e, err := c.KVGet(ctx, keyOf(key), client.ReadOptions{})
		if err != nil {
			return false, err
		}
		return true, compare(e, key, size)
	})
	if err != nil {
		return err
	}
	return cluster.Wait(ctx, "a write through "+a.Name+" is answered", func(ctx context.Context) (bool, error) {
		_, err := c.KVSet(ctx, "capacity/probe/"+a.Name, []byte("served"), client.WriteOptions{})
		return err == nil, err
	})
}
