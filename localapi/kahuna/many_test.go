package kahuna_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// TestLargeBatchesHoldNobodyUp sets and deletes so many keys at once that one
// command with all of them would take apply for a while, and has the quorum fail in
// between: each item says truly what became of it.
func TestLargeBatchesHoldNobodyUp(t *testing.T) {
	q := newQuorum(t)
	kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial())
	const keys = 12_345
	var most, commands, lastCommands int
	failAfter := -1
	q.setBroken(func(_ context.Context, req *replication.Request) (*replication.Answer, error, bool) {
		if n := len(req.GetWrite().GetItems()); n > 0 {
			most, commands = max(most, n), commands+1
			if failAfter >= 0 && commands-lastCommands > failAfter {
				return nil, replication.ErrUnavailable, true
			}
		}
		return nil, nil, false
	})
	var in []*pb.GrpcTrySetManyKeyValueRequestItem
	for i := range keys {
		in = append(in, &pb.GrpcTrySetManyKeyValueRequestItem{Key: fmt.Sprint("k", i), Durability: 1, Flags: pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS})
	}
	in[7].ExpiresMs = -1
	set := ask[*pb.GrpcTrySetManyKeyValueResponse](t, kv, &pb.GrpcTrySetManyKeyValueRequest{Items: in})
	if most > 1000 || commands != 13 || len(set.Items) != keys {
		t.Fatalf("%d answers to %d keys, in %d commands of up to %d", len(set.Items), keys, commands, most)
	}
	for i, a := range set.Items {
		want := pb.GrpcKeyValueResponseType_TYPE_SET
		if i == 7 {
			want = pb.GrpcKeyValueResponseType_TYPE_INVALID_INPUT
		}
		if a.Type != want || a.Key != in[i].Key {
			t.Fatalf("item %d: %v", i, a)
		}
	}
	failAfter, lastCommands = 3, commands
	again := ask[*pb.GrpcTrySetManyKeyValueResponse](t, kv, &pb.GrpcTrySetManyKeyValueRequest{Items: in})
	if commands-lastCommands != failAfter+1 {
		t.Errorf("%d commands after the quorum had gone", commands-lastCommands-failAfter)
	}
	for i, a := range again.Items {
		want := pb.GrpcKeyValueResponseType_TYPE_NOTSET
		switch {
		case i == 7:
			want = pb.GrpcKeyValueResponseType_TYPE_INVALID_INPUT
		case i >= 3000:
			want = pb.GrpcKeyValueResponseType_TYPE_MUST_RETRY
		}
		if a.Type != want || a.Key != in[i].Key {
			t.Fatalf("item %d while the quorum fails: %v", i, a)
		}
	}
	failAfter = -1
	var out []*pb.GrpcTryDeleteManyKeyValueRequestItem
	for i := range keys {
		out = append(out, &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: fmt.Sprint("k", i), Durability: 1})
	}
	deleted := ask[*pb.GrpcTryDeleteManyKeyValueResponse](t, kv, &pb.GrpcTryDeleteManyKeyValueRequest{Items: out})
	for i, a := range deleted.Items {
		want := pb.GrpcKeyValueResponseType_TYPE_DELETED
		if i == 7 {
			want = pb.GrpcKeyValueResponseType_TYPE_DOES_NOT_EXIST
		}
		if a.Type != want || a.Key != out[i].Key {
			t.Fatalf("deleting item %d: %v", i, a)
		}
	}
}
