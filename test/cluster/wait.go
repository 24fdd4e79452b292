package cluster

import (
	"context"
	"fmt"
	"time"
)

// pollEvery is how often Wait looks. It is a load on the machine, not a delay
// that a test relies on.
const pollEvery = 5 * time.Millisecond

// Wait calls done until it returns true, or ctx ends. The error then says what
// was waited for and the last error that done returned, which is otherwise
// taken as "not yet".
func Wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("waiting until %s: %w; last: %w", what, context.Cause(ctx), err)
			}
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
