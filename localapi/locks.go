package localapi

import (
	"net/http"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func (s *Server) getLocks(x *exchange) error {
	d, err1 := x.durability()
	limit, err2 := x.limit()
	if err := first(err1, err2); err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_LockList{LockList: &replication.LockList{
		Durability: d, Prefix: x.query.Get("prefix"), After: x.query.Get("after"), Limit: uint32(limit)}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.LocksOf(a.GetLocks()))
}

func (s *Server) getLock(x *exchange) error {
	d, err := x.durability()
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_LockGet{LockGet: &replication.LockGet{
		Durability: d, Name: x.name, QueueLimit: wire.MaxWaitersShown}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.LockOf(a.GetLock()))
}

func (s *Server) postLockTry(x *exchange) error {
	var in wire.LockTry
	if err := x.decode(&in); err != nil {
		return err
	}
	owner, err1 := wire.OwnerBytes(in.Owner)
	ttl, err2 := wire.ParseTTL(in.TTL)
	d, err3 := wire.ParseDurability(string(in.Durability))
	if err := invalid(first(err1, err2, err3)); err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
		Durability: d.Replicated(), Name: x.name, Owner: owner, TtlMs: ttl.Milliseconds(),
		Info: &replication.HolderInfo{Reason: in.Reason}}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.GrantOf(x.name, a.GetLockGrant()))
}

func (s *Server) postLockExtend(x *exchange) error {
	var in wire.LockExtend
	if err := x.decode(&in); err != nil {
		return err
	}
	owner, err1 := wire.OwnerBytes(in.Owner)
	ttl, err2 := wire.ParseTTL(in.TTL)
	d, err3 := wire.ParseDurability(string(in.Durability))
	if err := invalid(first(err1, err2, err3)); err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_LockExtend{LockExtend: &replication.LockExtend{
		Durability: d.Replicated(), Name: x.name, Owner: owner, TtlMs: ttl.Milliseconds()}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.GrantOf(x.name, a.GetLockGrant()))
}

func (s *Server) postLockUnlock(x *exchange) error {
	var in wire.LockUnlock
	if err := x.decode(&in); err != nil {
		return err
	}
	owner, err1 := wire.OwnerBytes(in.Owner)
	d, err2 := wire.ParseDurability(string(in.Durability))
	if err := invalid(first(err1, err2)); err != nil {
		return err
	}
	if _, err := s.ask(x, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: d.Replicated(), Name: x.name, Owner: owner}}}); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) postLockBreak(x *exchange) error {
	var in wire.LockBreak
	if err := x.decode(&in); err != nil {
		return err
	}
	d, err := wire.ParseDurability(string(in.Durability))
	if err != nil {
		return invalid(err)
	}
	if _, err := s.ask(x, &replication.Request{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{
		Durability: d.Replicated(), Name: x.name, Reason: in.Reason}}}); err != nil {
		return err
	}
	s.cfg.Logger.Info("lock broken by an administrator", "lock", x.name, "reason", wire.Text(in.Reason), "caller", x.who)
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}
