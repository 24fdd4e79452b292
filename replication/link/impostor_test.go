package link_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication/link"
)

// A proxy that has the id of a voter, at another address or at the voter's own while
// that was away, does not stand between those who ask and the voter.
func TestAProxyDoesNotTakeAVotersPlace(t *testing.T) {
	var book, elsewhere addresses
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{Members: members{}, Voter: &voter{}})
	start(t, &elsewhere, clusterSecret.Proxy(), "v2", link.ServerOptions{Members: members{}})
	where, _ := elsewhere.resolve("v2")
	if _, id, err := v1.pool.HelloAt(t.Context(), where, &link.Hello{Self: &link.Peer{}}); err != nil || id.Voter {
		t.Fatalf("%v, %v", id, err)
	}
	book.set("v2", where)
	if _, err := v1.pool.Do(t.Context(), "v2", get()); !errors.Is(err, link.ErrWrongNode) {
		t.Fatalf("a proxy in a voter's place: %v", err)
	}
	start(t, &book, clusterSecret, "v2", link.ServerOptions{Members: members{}, Voter: &voter{}})
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if _, err = v1.pool.Do(t.Context(), "v2", get()); err == nil {
			return
		}
	}
	t.Errorf("the voter is not asked: %v", err)
}
