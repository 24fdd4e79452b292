// Package ports gives tests loopback ports that stay theirs.
//
// It promises that a port which Take returned is free, by TCP and UDP, that no
// outgoing connection is given it, and that no other test on this machine takes it
// until this process ends, be it in this process or in another one: an agent that was
// killed finds its port free again. Who listens on ports without asking here can still
// be in the way.
package ports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports below the range that the kernel gives to outgoing connections (32768 and up by
// default).
const (
	first = 20_000
	last  = 32_000
)

// taken are what other processes see of the ports of this one: abstract sockets, which
// the kernel closes with the process, and of which each network namespace has its own,
// as of ports.
var (
	mu    sync.Mutex
	taken []net.Listener
)

// Take returns n loopback addresses. It may be called concurrently.
func Take(ctx context.Context, n int) ([]string, error) {
	return take(ctx, "127.0.0.1", first, last, n)
}

func take(ctx context.Context, host string, first, last, n int) ([]string, error) {
	var addresses []string
	var failed error
	for _, offset := range rand.Perm(last - first) {
		if len(addresses) == n {
			break
		}
		address := net.JoinHostPort(host, strconv.Itoa(first+offset))
		if err := takeOne(ctx, address); err != nil {
			failed = err
			continue
		}
		addresses = append(addresses, address)
	}
	if len(addresses) < n {
		return nil, fmt.Errorf("finding %d free loopback ports between %d and %d: %w", n, first, last, failed)
	}
	return addresses, nil
}

// takeOne marks an address as taken, and looks whether it is free.
func takeOne(ctx context.Context, address string) (err error) {
	mark, err := (&net.ListenConfig{}).Listen(ctx, "unix", "@kahu-test-"+address)
	if err != nil {
		return fmt.Errorf("another test has %s: %w", address, err)
	}
	defer func() {
		if err != nil {
			_ = mark.Close() // nobody has seen it
		}
	}()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	packets, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if err := errors.Join(l.Close(), packets.Close()); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	taken = append(taken, mark)
	return nil
}
