package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// Ports below the range that the kernel gives to outgoing connections (32768
// and up by default): an agent that was killed must find its port free again.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// FreePorts returns n loopback addresses that nobody listens on now, by TCP or UDP. They are
// not reserved: somebody else may take one before it is used.
func FreePorts(ctx context.Context, n int) ([]string, error) {
	var addresses []string
	var listeners []io.Closer
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	var failed error
	for attempt := 0; len(addresses) < n && attempt < 100*n; attempt++ {
		address := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		listeners = append(listeners, l)
		packets, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		listeners = append(listeners, packets)
		addresses = append(addresses, address)
	}
	if len(addresses) < n {
		return nil, fmt.Errorf("finding %d free loopback ports: %w", n, failed)
	}
	return addresses, nil
}
