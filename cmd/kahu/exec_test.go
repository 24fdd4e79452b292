package main

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/cmd/kahu/guarded"
	"github.com/kahu-sh/kahu/localapi/client"
)

// kahu exec has the codes of every command for what the agent refuses.
func TestExecRefusesWithTheCodesOfAll(t *testing.T) {
	for _, row := range errorCodes {
		switch row.err {
		case client.ErrConditionFailed, client.ErrExists, client.ErrExhausted, client.ErrConflict, client.ErrScript, client.ErrTooOld, client.ErrStandsStill:
			continue // not of a lock
		}
		err := fmt.Errorf("lock %q: %w", "l", row.err)
		if got := guarded.NewRefusal(err).ExitCode(); got != row.code {
			t.Errorf("%v: kahu exec ends with %d, others with %d", row.err, got, row.code)
		}
	}
}
