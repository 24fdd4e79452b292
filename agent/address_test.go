package agent_test

import (
	"testing"

	"github.com/kahu-sh/kahu/test/ports"
)

// freeAddress is a loopback address that nobody listens on, by TCP or UDP, and that no
// other test is given: an agent that is restarted finds its port free again.
func freeAddress(t *testing.T) string {
	t.Helper()
	addresses, err := ports.Take(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return addresses[0]
}
