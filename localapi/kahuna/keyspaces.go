package kahuna

import (
	"context"
	"strings"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// How a key space is said to be routed, and the words of what became of a
// request about it (keyvalue.md 7).
const (
	routingRange = "KeyRange"
	routingHash  = "Hash"

	wordInvalid       = "InvalidInput"
	wordIndeterminate = "Indeterminate"

	reasonKeySpace = "a key space has a name, which does not end in /meta"
	reasonNoQuorum = "no quorum answered in time; the request may still be carried out"
)

func badKeySpace(name string) bool { return name == "" || strings.HasSuffix(name, "/meta") }

// RegisterKeyRange records that a key space is ordered by key. It already is:
// there is one partition.
func (s *Service) RegisterKeyRange(ctx context.Context, req *pb.GrpcRegisterKeyRangeRequest) (*pb.GrpcRegisterKeyRangeResponse, error) {
	if badKeySpace(req.GetKeySpace()) {
		return &pb.GrpcRegisterKeyRangeResponse{Status: wordInvalid, RoutingMode: routingHash, Reason: reasonKeySpace}, nil
	}
	a, err := s.setKeySpace(ctx, req.KeySpace, true)
	switch {
	case retries(err):
		return &pb.GrpcRegisterKeyRangeResponse{Status: wordIndeterminate, RoutingMode: routingHash, Reason: reasonNoQuorum}, nil
	case err != nil:
		return nil, err
	case a.GetCode() == replication.Code_CODE_INVALID:
		return &pb.GrpcRegisterKeyRangeResponse{Status: wordInvalid, RoutingMode: routingHash, Reason: a.GetDetail()}, nil
	case a.GetCode() != replication.Code_CODE_OK:
		return &pb.GrpcRegisterKeyRangeResponse{Status: wordIndeterminate, RoutingMode: routingHash, Reason: a.GetDetail()}, nil
	}
	out := &pb.GrpcRegisterKeyRangeResponse{Success: true, Status: "AlreadySeeded", RoutingMode: routingRange, DescriptorCount: 1}
	if a.GetKeySpaces().GetChanged() {
		out.Status, out.Seeded = "Seeded", true
	}
	return out, nil
}

// RemoveKeyRange takes the record away, also where there was none.
func (s *Service) RemoveKeyRange(ctx context.Context, req *pb.GrpcRemoveKeyRangeRequest) (*pb.GrpcRemoveKeyRangeResponse, error) {
	if badKeySpace(req.GetKeySpace()) {
		return &pb.GrpcRemoveKeyRangeResponse{Status: wordInvalid, RoutingMode: routingHash, Reason: reasonKeySpace}, nil
	}
	a, err := s.setKeySpace(ctx, req.KeySpace, false)
	switch {
	case retries(err):
		return &pb.GrpcRemoveKeyRangeResponse{Status: wordIndeterminate, RoutingMode: routingHash, Reason: reasonNoQuorum}, nil
	case err != nil:
		return nil, err
	case a.GetCode() == replication.Code_CODE_INVALID:
		return &pb.GrpcRemoveKeyRangeResponse{Status: wordInvalid, RoutingMode: routingHash, Reason: a.GetDetail()}, nil
	case a.GetCode() != replication.Code_CODE_OK:
		return &pb.GrpcRemoveKeyRangeResponse{Status: wordIndeterminate, RoutingMode: routingHash, Reason: a.GetDetail()}, nil
	}
	return &pb.GrpcRemoveKeyRangeResponse{Success: true, Status: "Removed", RoutingMode: routingHash}, nil
}

func (s *Service) setKeySpace(ctx context.Context, name string, ranged bool) (*replication.Answer, error) {
	if err := s.need(ctx, policy.Write, name); err != nil {
		return nil, err
	}
	return s.ask(ctx, &replication.Request{Op: &replication.Request_KeySpaceSet{KeySpaceSet: &replication.KeySpaceSet{Name: name, Ranged: ranged}}})
}

// keySpaces lists what is registered: one name, or all of them in order.
func (s *Service) keySpaces(ctx context.Context, name string) ([]string, error) {
	limited, cancel := s.bound(ctx)
	defer cancel()
	var names []string
	list := replication.KeySpaceList{Name: name}
	for {
		a, err := s.ask(limited, &replication.Request{Op: &replication.Request_KeySpaceList{
			KeySpaceList: &replication.KeySpaceList{Name: list.Name, After: list.After}}})
		if err != nil {
			return nil, err
		}
		page := a.GetKeySpaces().GetNames()
		names = append(names, page...)
		if !a.GetKeySpaces().GetMore() || len(page) == 0 || len(names) > MaxScanRows {
			return names, nil
		}
		list.After = page[len(page)-1]
	}
}
