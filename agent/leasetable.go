package agent

import (
	"context"
	"path/filepath"

	"github.com/kahu-sh/kahu/agent/holds"
	"github.com/kahu-sh/kahu/integrations/systemd"
)

// leaseTableName is in the data directory, a proxy's too.
const leaseTableName = "holds.table"

// leaseTable is where this agent's successor finds its holds. An agent that
// leaves nothing behind has none.
func (a *agent) leaseTable() string {
	if a.cfg.Dev {
		return ""
	}
	return filepath.Join(a.identity.dir, leaseTableName)
}

// pidfdKeeper is what keeps pidfds while this agent is restarted, nil where nobody
// does. settle is called once the holds have taken theirs.
func (a *agent) pidfdKeeper(stops *[]func(context.Context) error) (keeper holds.PidfdKeeper, settle func()) {
	store := systemd.NewFDStore(a.o.Sockets.Stored, a.log)
	if store == nil {
		return nil, func() {}
	}
	*stops = append(*stops, func(context.Context) error {
		store.Close()
		return nil
	})
	return store, store.Settle
}
