package localapi

import (
	"net/http"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func (s *Server) getSequences(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SequenceList{SequenceList: &replication.SequenceList{
		Prefix: x.query.Get("prefix"), After: x.query.Get("after"), Limit: uint32(limit)}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SequencesOf(a.GetSequences()))
}

func (s *Server) getSequence(x *exchange) error {
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SequenceGet{SequenceGet: &replication.SequenceGet{Name: x.name}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SequenceOf(a.GetSequence()))
}

func (s *Server) putSequence(x *exchange) error {
	var in wire.SequenceCreate
	if x.r.ContentLength != 0 { // all of it has defaults
		if err := x.decode(&in); err != nil {
			return err
		}
	}
	a, err := s.ask(x, in.Request(x.name))
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusCreated, wire.SequenceOf(a.GetSequence()))
}

func (s *Server) patchSequence(x *exchange) error {
	var in wire.SequenceUpdate
	if err := x.decode(&in); err != nil {
		return err
	}
	if in.Current != nil && !in.AllowLower {
		now, err := s.ask(x, &replication.Request{Op: &replication.Request_SequenceGet{SequenceGet: &replication.SequenceGet{Name: x.name}}})
		if err != nil {
			return err
		}
		if err := in.CheckNotLower(now.GetSequence()); err != nil {
			return invalid(err)
		}
	}
	a, err := s.ask(x, in.Request(x.name))
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.SequenceOf(a.GetSequence()))
}

func (s *Server) deleteSequence(x *exchange) error {
	if _, err := s.ask(x, &replication.Request{Op: &replication.Request_SequenceDelete{SequenceDelete: &replication.SequenceDelete{Name: x.name}}}); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) postSequenceNext(x *exchange) error { return s.allocate(x, 1) }

func (s *Server) postSequenceReserve(x *exchange) error {
	var in wire.SequenceReserve
	if err := x.decode(&in); err != nil {
		return err
	}
	return s.allocate(x, in.Count)
}

func (s *Server) allocate(x *exchange, count int64) error {
	key, err := x.oneHeader("Idempotency-Key")
	if err != nil {
		return err
	}
	a, err := s.ask(x, &replication.Request{Op: &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{
		Name: x.name, Count: count, IdempotencyKey: key}}})
	if err != nil {
		return err
	}
	return x.writeJSON(http.StatusOK, wire.AllocationOf(a.GetAllocation()))
}
