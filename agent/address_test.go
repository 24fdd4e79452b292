package agent_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports below the range that the kernel gives to outgoing connections (32768 and up
// by default): an agent that is restarted must find its port free again, whatever
// the tests beside it connect to meanwhile.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// given are the ports that a test of this process has: none is given twice.
var given sync.Map

// freeAddress is a loopback address that nobody listens on, by TCP or UDP.
func freeAddress(t *testing.T) string {
	t.Helper()
	var failed error
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort))
		if _, taken := given.LoadOrStore(address, true); taken {
			continue
		}
		ln, err := net.Listen("tcp", address)
		if err != nil {
			failed = err
			continue
		}
		packets, err := net.ListenPacket("udp", address)
		ln.Close()
		if err != nil {
			failed = err
			continue
		}
		packets.Close()
		return address
	}
	t.Fatalf("finding a free loopback port: %v", failed)
	return ""
}
