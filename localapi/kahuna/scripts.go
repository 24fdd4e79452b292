package kahuna

import (
	"context"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// TryExecuteTransactionScript runs a script. Which keys it touches is known only
// when it runs, so the caller must be allowed to read and write every name.
func (s *Service) TryExecuteTransactionScript(ctx context.Context, req *pb.GrpcTryExecuteTransactionScriptRequest) (*pb.GrpcTryExecuteTransactionScriptResponse, error) {
	start := time.Now()
	if len(req.GetScript()) == 0 && req.GetHash() == "" {
		return &pb.GrpcTryExecuteTransactionScriptResponse{Type: kvInvalid}, nil
	}
	if err := first2(s.need(ctx, policy.Read, ""), s.need(ctx, policy.Write, "")); err != nil {
		return nil, err
	}
	script := &replication.Script{Text: req.Script, Hash: []byte(req.GetHash()), Priority: priority(req.Priority)}
	for _, p := range req.GetParameters() {
		script.Parameters = append(script.Parameters, &replication.ScriptParameter{Name: p.GetKey(), Value: p.Value})
	}
	a, err := s.runScript(ctx, script)
	if retries(err) {
		return &pb.GrpcTryExecuteTransactionScriptResponse{Type: kvRetry, TimeElapsedMs: elapsedMS(start)}, nil
	}
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcTryExecuteTransactionScriptResponse{TimeElapsedMs: elapsedMS(start)}
	result := a.GetScriptResult()
	if a.GetCode() != replication.Code_CODE_OK || result == nil {
		out.Type = kvType(a.GetCode(), kvErrored)
		out.Reason = reason(a.GetDetail())
		return out, nil
	}
	out.Type, out.Reason = pb.GrpcKeyValueResponseType(result.Kind), reason(result.Reason)
	for _, v := range result.Values {
		one := &pb.GrpcTryExecuteTransactionResponseValue{Key: v.Key, Value: v.Value, Revision: v.Revision, ExpiresPhysical: v.ExpiresAtMs}
		one.LastModifiedNode, one.LastModifiedPhysical, one.LastModifiedCounter = label(v.Modified)
		out.Values = append(out.Values, one)
	}
	return out, nil
}

// runScript runs a script in the way that suits it (decisions.md 40). One that
// sleeps takes longer than any other request, so it is each of its commands that
// is bounded, and not the whole, which ends by its own timeout.
func (s *Service) runScript(ctx context.Context, script *replication.Script) (*replication.Answer, error) {
	if b, is := ctx.(bounded); is {
		ctx = b.caller
	}
	a, err := s.scripts.Run(ctx, script)
	if err != nil {
		return nil, s.undecided(ctx)
	}
	return a, nil
}

// patient is a Coordinator that waits for a leader as long as a Service does.
type patient struct {
	replication.Coordinator
	wait time.Duration
}

// Do implements replication.Coordinator.
func (p patient) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	return p.Coordinator.Do(ctx, req)
}

func reason(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
