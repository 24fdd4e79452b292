package localapi

import (
	"net/http"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// getSnapshots lists the snapshot holds and the lowest time among them.
func (s *Server) getSnapshots(x *exchange) error {
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SnapshotFloorGet{SnapshotFloorGet: &replication.SnapshotFloorGet{List: true}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SnapshotHoldsOf(a.GetSnapshotFloor()))
}

// postSnapshot holds the history that reads as of a time need.
func (s *Server) postSnapshot(x *exchange) error {
	var in wire.SnapshotOpen
	if err := x.decode(&in); err != nil {
		return err
	}
	if in.AsOf == "" || in.Lease == "" {
		return invalidf("name the time whose history to hold, as_of, and for how long, lease")
	}
	at, err1 := wire.ParseMoment(in.AsOf)
	lease, err2 := wire.ParseTTL(in.Lease)
	if err := first(err1, err2); err != nil {
		return invalid(err)
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SnapshotHoldAcquire{SnapshotHoldAcquire: &replication.SnapshotHoldAcquire{
		Holder: in.Holder, Timestamp: at, LeaseMs: lease.Milliseconds()}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SnapshotHoldOf(a.GetSnapshotHold()))
}

// postSnapshotRenew begins the lease of a hold again.
func (s *Server) postSnapshotRenew(x *exchange) error {
	var in wire.SnapshotRenew
	if err := x.decode(&in); err != nil {
		return err
	}
	lease, err := wire.ParseTTL(in.Lease)
	if err != nil {
		return invalid(err)
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SnapshotHoldRenew{SnapshotHoldRenew: &replication.SnapshotHoldRenew{
		Id: x.name, LeaseMs: lease.Milliseconds()}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SnapshotHoldOf(a.GetSnapshotHold()))
}

// deleteSnapshot lets the history go.
func (s *Server) deleteSnapshot(x *exchange) error {
	if _, err := s.ask(x, &replication.Request{Op: &replication.Request_SnapshotHoldRelease{SnapshotHoldRelease: &replication.SnapshotHoldRelease{Id: x.name}}}); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// getKeySpaces lists the key spaces that are registered as ordered.
func (s *Server) getKeySpaces(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_KeySpaceList{KeySpaceList: &replication.KeySpaceList{
		After: x.query.Get("after"), Limit: uint32(limit)}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.KeySpacesOf(a.GetKeySpaces()))
}

func (s *Server) putKeySpace(x *exchange) error { return s.setKeySpace(x, true) }

func (s *Server) deleteKeySpace(x *exchange) error { return s.setKeySpace(x, false) }

// setKeySpace registers a key space, or takes the record away.
func (s *Server) setKeySpace(x *exchange, registered bool) error {
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_KeySpaceSet{KeySpaceSet: &replication.KeySpaceSet{Name: x.name, Ranged: registered}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.KeySpaceChange{KeySpace: x.name, Registered: registered, Changed: a.GetKeySpaces().GetChanged()})
}
