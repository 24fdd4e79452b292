package agent

import "path/filepath"

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
