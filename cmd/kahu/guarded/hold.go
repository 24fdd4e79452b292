package guarded

import (
	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/localapi/client/hold"
)

// NewAgent lets something else than kahu exec keep a hold as the guard does.
func NewAgent(socket string, o hold.Options) guard.Agent {
	return &agent{where: hold.Where{Socket: socket}, hold: o}
}
