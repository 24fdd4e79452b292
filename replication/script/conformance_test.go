package script_test

import (
	"testing"

	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

func TestConformance(t *testing.T) {
	scripttest.Run(t, scripttest.Suite{Open: func(*testing.T) scripttest.Runner { return scripttest.NewMemory() }})
}
