package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// incrementScript adds one to the counter in @k and answers with what it is now.
const incrementScript = "LET n = GET @k\nIF n = NULL THEN LET n = 0 END\nLET n = n + 1\nSET @k n\nRETURN n"

// script increments one hot counter. That a caller's numbers do not grow is an
// error: a load that loses updates measures nothing.
func (o *benchOptions) script(_ context.Context, targets []target) (load.Op, error) {
	key := o.prefix + "counter"
	last := make([]int64, o.spec.Callers) // each caller's own
	return func(ctx context.Context, caller int, _ uint64) error {
		text, err := targets[caller%len(targets)].Script(ctx, incrementScript, key)
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("the counter is %.40q", text)
		}
		if n <= last[caller] {
			return fmt.Errorf("the counter went from %d to %d", last[caller], n)
		}
		last[caller] = n
		return nil
	}, nil
}

var errNoValue = errors.New("the script was answered without its value")

// Script runs a script with its parameter @k, and returns its value.
func (t streamTarget) Script(ctx context.Context, text, k string) (string, error) {
	res, err := t.RunScript(ctx, wire.Script{Script: text, Parameters: []wire.ScriptParameter{{Name: "@k", Value: k}}})
	if err != nil {
		return "", err
	}
	if len(res.Values) != 1 {
		return "", errNoValue
	}
	return string(res.Values[0].Value), nil
}

// Script runs a script with its parameter @k, and returns its value.
func (t httpTarget) Script(ctx context.Context, text, k string) (string, error) {
	var res wire.ScriptResult
	body := wire.Script{Script: text, Parameters: []wire.ScriptParameter{{Name: "@k", Value: k}}}
	if err := t.postFor(ctx, "scripts", body, &res); err != nil {
		return "", err
	}
	if len(res.Values) != 1 {
		return "", errNoValue
	}
	return string(res.Values[0].Value), nil
}

// Script runs a script with its parameter @k, and returns its value.
func (t *kahunaTarget) Script(ctx context.Context, text, k string) (string, error) {
	a, err := t.key(ctx, func(id int32) *pb.GrpcBatchClientKeyValueRequest {
		return &pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT, RequestId: id,
			Payload: &pb.GrpcBatchClientKeyValueRequest_TryExecuteTransactionScript{TryExecuteTransactionScript: &pb.GrpcTryExecuteTransactionScriptRequest{
				Script: []byte(text), Parameters: []*pb.GrpcKeyValueParameter{{Key: "@k", Value: &k}}}}}
	})
	if err != nil {
		return "", err
	}
	res := a.GetTryExecuteTransactionScript()
	if len(res.GetValues()) != 1 {
		return "", fmt.Errorf("%w: %v %s", errNoValue, res.GetType(), res.GetReason())
	}
	return string(res.GetValues()[0].GetValue()), nil
}
