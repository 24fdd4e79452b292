package cluster

import (
	"context"

	"github.com/kahu-sh/kahu/test/ports"
)

// FreePorts returns n loopback addresses that nobody listens on, by TCP or UDP. No
// other test is given them until this process ends.
func FreePorts(ctx context.Context, n int) ([]string, error) { return ports.Take(ctx, n) }
