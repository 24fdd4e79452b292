package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/test/cluster"
)

// Whoever a client of Kahuna asks, the hint names the leader's listener: on voters
// and proxies, and after the leader has died.
func TestHintsNameTheLeader(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1, Args: []string{"--kahuna-listen", "127.0.0.1:0", "--kahuna-insecure"}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	urls, conns := map[string]string{}, map[*cluster.Agent]*grpc.ClientConn{} // by node; by agent
	nodes := map[string]*cluster.Agent{}
	for _, a := range c.Agents {
		s, err := a.Status(ctx)
		if err != nil || s.Kahuna == nil || len(s.Kahuna.Listen) != 1 {
			t.Fatalf("%s: %+v, %v", a.Name, s.Kahuna, err)
		}
		urls[s.Node], nodes[s.Node] = "http://"+s.Kahuna.Listen[0], a
		if conns[a], err = grpc.NewClient(s.Kahuna.Listen[0], grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[a].Close() })
	}
	// ask sets a key through an agent until the hint names a leader, and returns its
	// node: a voter that nobody has heard yet has told nobody where it listens.
	ask := func(a *cluster.Agent) (leader string) {
		t.Helper()
		for {
			set, err := pb.NewKeyValuerClient(conns[a]).TrySetKeyValue(ctx, &pb.GrpcTrySetKeyValueRequest{Key: "k", Value: []byte("v"),
				Flags: pb.GrpcKeyValueFlags_SET, Durability: pb.GrpcKeyValueDurability_PERSISTENT})
			if ctx.Err() != nil {
				t.Fatalf("%s names no leader: %v, %v", a.Name, set, err)
			}
			hint := set.GetRoute()
			for node, url := range urls {
				if url != hint.GetEndpoint() {
					continue
				}
				want := pb.GrpcRouteProvenance_ROUTE_PROVENANCE_FORWARDED
				if nodes[node] == a {
					want = pb.GrpcRouteProvenance_ROUTE_PROVENANCE_EXECUTED
				}
				if hint.GetProvenance() != want {
					t.Errorf("%s says of %s %v, want %v", a.Name, nodes[node].Name, hint.GetProvenance(), want)
				}
				return node
			}
			if hint != nil {
				t.Fatalf("%s names %q, which is none of %v", a.Name, hint.GetEndpoint(), urls)
			}
		}
	}
	agree := func(but *cluster.Agent) (leader string) {
		t.Helper()
		for {
			answers := map[string]string{}
			for _, a := range c.Agents {
				if a != but {
					leader = ask(a)
					answers[leader] = a.Name
				}
			}
			if len(answers) == 1 {
				return leader
			}
			if ctx.Err() != nil {
				t.Fatal(fmt.Sprint("they disagree about who leads: ", answers))
			}
		}
	}
	first := agree(nil)
	metadata, err := pb.NewClusterClient(conns[c.Proxies()[0]]).GetRoutingMetadata(ctx, &pb.GrpcGetRoutingMetadataRequest{})
	if err != nil || len(metadata.GetLeaders()) != 1 || metadata.Leaders[0].GetEndpoint() != urls[first] {
		t.Errorf("the proxy's routing metadata: %v, %v, want the leader at %s", metadata, err, urls[first])
	}
	if err := nodes[first].Kill(); err != nil {
		t.Fatal(err)
	}
	if second := agree(nodes[first]); second == first {
		t.Error("the hint still names the dead leader")
	}
}
