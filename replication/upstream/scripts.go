package upstream

import (
	"context"
	"math"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/limiter"
	"github.com/kahu-sh/kahu/replication/script"
)

// script has the cluster run a script. Only one that certainly writes nothing is
// sent again.
func (c *Client) script(ctx context.Context, op *replication.Script) (*replication.Answer, error) {
	kept := limiter.KeptMS(string(op.GetText()), func(name string) string {
		for _, p := range op.GetParameters() {
			if p.GetName() == name {
				return p.GetValue()
			}
		}
		return ""
	})
	if kept > math.MaxInt32 { // it would be cut to 32 bits, and the limit forgotten
		return nil, refuse(replication.Code_CODE_INVALID, "the limit is to be kept for %d ms, and a Kahuna cluster keeps nothing with an end for more than %d ms (upstream mode): take a shorter period", kept, math.MaxInt32)
	}
	m := manner{patient: true}
	if program, err := script.Parse(string(op.GetText())); err == nil && program.Mode() == script.ModeRead {
		m = manner{repeat: true, reads: true, patient: true}
	}
	r := &pb.GrpcTryExecuteTransactionScriptRequest{Script: op.GetText(), Priority: pb.GrpcTransactionPriority(op.GetPriority())}
	if len(op.GetHash()) > 0 {
		hash := string(op.GetHash())
		r.Hash = &hash
	}
	for _, p := range op.GetParameters() {
		r.Parameters = append(r.Parameters, &pb.GrpcKeyValueParameter{Key: p.GetName(), Value: p.Value})
	}
	// Errored is the script's own failure, with its reason: it was decided.
	a, _, err := ask(ctx, c, m, func(ctx context.Context, e *endpoint) (*pb.GrpcTryExecuteTransactionScriptResponse, error) {
		return e.keys.TryExecuteTransactionScript(ctx, r)
	}, func(a *pb.GrpcTryExecuteTransactionScriptResponse) bool { return a.GetType() == kvRetry })
	if err != nil {
		return nil, err
	}
	out := &replication.ScriptResult{Kind: replication.ScriptKind(a.GetType()), Reason: a.GetReason()}
	for _, v := range a.GetValues() {
		out.Values = append(out.Values, &replication.ScriptValue{Key: v.GetKey(), Value: v.Value, Revision: v.GetRevision(),
			ExpiresAtMs: v.GetExpiresPhysical(), Modified: stamp(v.GetLastModifiedNode(), v.GetLastModifiedPhysical(), v.GetLastModifiedCounter())})
	}
	return &replication.Answer{Result: &replication.Answer_ScriptResult{ScriptResult: out}}, nil
}
