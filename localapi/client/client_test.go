package client

import (
	"testing"

	"go.uber.org/goleak"
)

// What needs an agent is tested in package localapi, against a real socket, and
// what needs none in internal/socket and hold.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
