package localapi

import (
	"context"
	"net/http"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// Cluster is what an agent knows of the others, and how operators change the
// quorum. Its methods may be called concurrently.
type Cluster interface {
	// Members answers from memory.
	Members() wire.ClusterMembers
	// Change blocks until the change is made, or ctx ends. Refusals are a
	// *wire.Error.
	Change(ctx context.Context, action wire.ClusterAction, node string) (wire.ClusterChanged, error)
}

// clusterRoutes are rows of the table. Reading who is there is for everybody who
// may read anything; changes ask for admin without a prefix.
func clusterRoutes() []route {
	rows := []route{{name: "cluster_members", method: "GET", path: wire.ClusterPath, access: somewhere, verb: policy.Read, handle: (*Server).getCluster}}
	for _, action := range wire.ClusterActions {
		rows = append(rows, route{name: "cluster_" + string(action), method: "POST", path: wire.ClusterPath + "/" + string(action), access: inside, verb: policy.Admin,
			handle: func(s *Server, x *exchange) error { return s.postCluster(x, action) }})
	}
	return rows
}

// errNoCluster says why there is nothing to show or change.
func (s *Server) errNoCluster() error {
	why := s.cfg.NoCluster
	if why == "" {
		why = "this agent knows of no cluster"
	}
	return wire.Refuse(wire.NotFound, why)
}

func (s *Server) getCluster(x *exchange) error {
	if s.cfg.Cluster == nil {
		return s.errNoCluster()
	}
	return x.writeJSON(http.StatusOK, s.cfg.Cluster.Members())
}

func (s *Server) postCluster(x *exchange, action wire.ClusterAction) error {
	if err := (admission{s, x.who}).need(policy.Admin, ""); err != nil {
		return err
	}
	if s.cfg.Cluster == nil {
		return s.errNoCluster()
	}
	var in wire.ClusterChange
	if x.r.ContentLength != 0 {
		if err := x.decode(&in); err != nil {
			return err
		}
	}
	switch {
	case action == wire.ClusterLeave && in.Node != "":
		return invalidf("an agent leaves for itself: ask for demote to take another's vote")
	case action != wire.ClusterLeave && action != wire.ClusterTransfer && in.Node == "":
		return invalidf("%s needs a node", action)
	case len(in.Node) > wire.MaxNameBytes:
		return invalidf("the node's name has %d bytes, and the limit is %d", len(in.Node), wire.MaxNameBytes)
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), s.cfg.RequestTimeout)
	defer cancel()
	changed, err := s.cfg.Cluster.Change(ctx, action, in.Node)
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, changed)
}
