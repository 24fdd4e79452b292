package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// A step posts a body (or gets, without one) and compares the answer with what is
// wanted of it: objects may have more, lists may not. "@x" stands for anything, is
// kept as x, and @x in a later body is what was kept.
type step struct{ path, body, want string }

// story is a Service over a state machine behind a real socket.
type story struct {
	t     *testing.T
	c     *http.Client
	q     *quorum
	known map[string]string
}

// stories runs f over HTTP/1.1 and HTTP/2.
func stories(t *testing.T, f func(s *story)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			q := newQuorum(t)
			f(&story{t: t, c: serve(t, realService(t, q), 0)[proto], q: q, known: map[string]string{}})
		})
	}
}

// both runs f with each durability.
func both(t *testing.T, f func(s *story, durability int)) {
	for d, name := range []string{"ephemeral", "persistent"} {
		t.Run(name, func(t *testing.T) { stories(t, func(s *story) { f(s, d) }) })
	}
}

var reference = regexp.MustCompile(`@[a-z]+\b`)

func (s *story) play(steps ...step) {
	s.t.Helper()
	for _, one := range steps {
		body := reference.ReplaceAllStringFunc(one.body, func(name string) string {
			if v, ok := s.known[name]; ok {
				return v
			}
			return name
		})
		method := http.MethodPost
		if one.body == "" {
			method = http.MethodGet
		}
		req, err := http.NewRequestWithContext(s.t.Context(), method, "http://kahuna/v1/"+one.path, strings.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := s.c.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		var got, want any
		d := json.NewDecoder(res.Body)
		d.UseNumber()
		err = d.Decode(&got)
		_ = res.Body.Close()
		if err != nil {
			s.t.Fatalf("%s %s answers %d and no JSON: %v", one.path, body, res.StatusCode, err)
		}
		d = json.NewDecoder(strings.NewReader(one.want))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			s.t.Fatalf("%s wants %q: %v", one.path, one.want, err)
		}
		if why := s.differs("", got, want); why != "" {
			s.t.Errorf("%s %s: %s\ngot  %v\nwant %s", one.path, body, why, got, one.want)
		}
	}
}

func (s *story) differs(at string, got, want any) string {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v and no object", at, got)
		}
		for k, v := range want {
			if why := s.differs(at+"."+k, object[k], v); why != "" {
				return why
			}
		}
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return fmt.Sprintf("%s is %v, not a list of %d", at, got, len(want))
		}
		for i := range want {
			if why := s.differs(fmt.Sprintf("%s[%d]", at, i), list[i], want[i]); why != "" {
				return why
			}
		}
	case string:
		if strings.HasPrefix(want, "@") {
			raw, err := json.Marshal(got)
			if err != nil || got == nil {
				return fmt.Sprintf("%s is %v", at, got)
			}
			s.known[want] = string(raw)
			return ""
		}
		if got != want {
			return fmt.Sprintf("%s is %v, not %q", at, got, want)
		}
	default:
		if got != want {
			return fmt.Sprintf("%s is %v, not %v", at, got, want)
		}
	}
	return ""
}

// of fills the durability in.
func of(d int, steps ...step) []step {
	for i := range steps {
		steps[i].body = strings.ReplaceAll(steps[i].body, "$d", fmt.Sprint(d))
		steps[i].want = strings.ReplaceAll(steps[i].want, "$d", fmt.Sprint(d))
	}
	return steps
}

func TestLocks(t *testing.T) {
	both(t, func(s *story, d int) {
		s.play(of(d,
			step{"locks/try-lock", `{"resource":"r","owner":"bWU=","expiresMs":10000,"durability":$d}`, `{"type":0,"fencingToken":0,"servedFrom":"","route":{"endpoint":"http://127.0.0.1:2070","partitionId":1,"provenance":1}}`},
			step{"locks/try-lock", `{"resource":"r","owner":"bWU=","expiresMs":10000,"durability":$d}`, `{"type":0,"fencingToken":0}`},
			step{"locks/try-lock", `{"resource":"r","owner":"eW91","expiresMs":10000,"durability":$d}`, `{"type":1,"fencingToken":0}`},
			step{"locks/get-info", `{"resource":"r","durability":$d}`, `{"type":4,"owner":"bWU=","fencingToken":0,"expires":{"l":"@end"},"servedFrom":""}`},
			step{"locks/try-extend", `{"resource":"r","owner":"eW91","expiresMs":10000,"durability":$d}`, `{"type":103,"fencingToken":0}`},
			step{"locks/try-extend", `{"resource":"r","owner":"bWU=","expiresMs":20000,"durability":$d}`, `{"type":2,"fencingToken":0}`},
			step{"locks/try-unlock", `{"resource":"r","owner":"eW91","durability":$d}`, `{"type":103}`},
			step{"locks/try-unlock", `{"resource":"r","owner":"bWU=","durability":$d}`, `{"type":3}`},
			step{"locks/try-unlock", `{"resource":"r","owner":"bWU=","durability":$d}`, `{"type":102}`},
			step{"locks/get-info", `{"resource":"r","durability":$d}`, `{"type":102,"owner":null,"expires":{"n":0,"l":0,"c":0},"servedFrom":null}`},
			step{"locks/try-lock", `{"resource":"r","owner":"eW91","expiresMs":10000,"durability":$d}`, `{"type":0,"fencingToken":1}`},
			// The other table is another lock.
			step{"locks/get-info", fmt.Sprintf(`{"resource":"r","durability":%d}`, 1-d), `{"type":102}`},
			// R12, L1.
			step{"locks/try-lock", `{"resource":"r","owner":null,"expiresMs":10000,"durability":$d}`, `{"type":100,"servedFrom":null}`},
			step{"locks/try-lock", `{"resource":"r","owner":"","expiresMs":10000,"durability":$d}`, `{"type":100,"servedFrom":""}`},
			step{"locks/try-lock", `{"resource":"","owner":"bWU=","expiresMs":10000,"durability":$d}`, `{"type":100}`},
			step{"locks/try-lock", `{"owner":"bWU=","expiresMs":10000,"durability":$d}`, `{"type":100}`},
			step{"locks/try-lock", `{"resource":"r","owner":"bWU=","expiresMs":0,"durability":$d}`, `{"type":100}`},
			step{"locks/try-lock", `{"resource":"r","owner":"bWU=","expiresMs":10000,"durability":7}`, `{"type":100}`},
		)...)
		s.q.advance(time.Minute)
		s.play(of(d, // L15, L14: the lease has ended.
			step{"locks/try-extend", `{"resource":"r","owner":"eW91","expiresMs":10000,"durability":$d}`, `{"type":102}`},
			step{"locks/try-unlock", `{"resource":"r","owner":"bWU=","durability":$d}`, `{"type":103}`},
			step{"locks/try-unlock", `{"resource":"r","owner":"eW91","durability":$d}`, `{"type":3}`},
		)...)
	})
}

func TestKeys(t *testing.T) {
	both(t, func(s *story, d int) {
		s.play(of(d,
			step{"kv/try-set", `{"key":"k","value":"b25l","flags":1,"durability":$d}`, `{"type":0,"revision":0,"servedFrom":null,"lastModified":{"n":0,"l":"@first"}}`},
			step{"kv/try-set", `{"key":"k","value":"","durability":$d}`, `{"type":0,"revision":1}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":3,"value":"","revision":1,"servedFrom":""}`},
			step{"kv/try-get", `{"key":"k","durability":$d}`, `{"type":3,"value":"b25l","revision":0}`}, // R20
			step{"kv/try-set", `{"key":"k","value":null,"durability":$d}`, `{"type":0,"revision":2}`},   // R19
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":3,"value":null,"revision":2}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"readTimestamp":{"n":0,"l":@first,"c":4294967295},"durability":$d}`, `{"type":3,"value":"b25l","revision":0}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","flags":"SetIfNotExists","durability":$d}`, `{"type":1,"revision":2}`},
			step{"kv/try-set", `{"key":"new","value":"eA==","flags":4,"durability":$d}`, `{"type":1}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","flags":32,"compareRevision":2,"durability":$d}`, `{"type":0,"revision":3}`},
			step{"kv/try-set", `{"key":"k","value":"eQ==","flags":16,"compareValue":"eA==","durability":$d}`, `{"type":0,"revision":4}`},
			step{"kv/try-set", `{"key":"k","value":"eg==","flags":16,"compareValue":"eA==","durability":$d}`, `{"type":1,"revision":4}`},
			step{"kv/try-exists", `{"key":"k","revision":-1,"durability":$d}`, `{"type":10,"revision":4,"servedFrom":""}`},
			step{"kv/try-exists", `{"key":"none","revision":-1,"durability":$d}`, `{"type":103,"servedFrom":null}`},
			step{"kv/try-extend", `{"key":"k","expiresMs":60000,"durability":$d}`, `{"type":2,"revision":4}`},
			step{"kv/try-extend", `{"key":"k","expiresMs":0,"durability":$d}`, `{"type":100}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":3,"value":"eQ==","expires":{"l":"@end"}}`},
			step{"kv/try-delete", `{"key":"k","durability":$d}`, `{"type":4}`},
			step{"kv/try-delete", `{"key":"k","durability":$d}`, `{"type":103}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":103,"value":null}`},
			// R18.
			step{"kv/try-set", `{"key":"","value":"eA==","durability":$d}`, `{"type":100}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","expiresMs":-1,"durability":$d}`, `{"type":100}`},
			step{"kv/try-set", `{"key":"__kahuna:x","value":"eA==","durability":$d}`, `{"type":100}`},
			step{"kv/try-get", `{"key":null,"revision":-1,"durability":$d}`, `{"type":100}`},
			step{"kv/try-exists", `{"revision":-1,"durability":$d}`, `{"type":100}`},
			step{"kv/try-delete", `{"durability":$d}`, `{"type":100}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","expiresMs":500,"durability":$d}`, `{"type":0}`},
		)...)
		s.q.advance(time.Second)
		s.play(of(d, step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":103}`})...)
	})
}

func TestManyKeysAndScans(t *testing.T) {
	both(t, func(s *story, d int) {
		s.play(of(d,
			step{"kv/try-set-many", `{"items":[{"key":"b/1","value":"MQ==","durability":$d},{"key":"b/2","value":"Mg==","durability":$d},{"key":"b/3","value":"Mw==","durability":$d},{"key":"b/3/x","value":"eA==","durability":$d},{"key":"b-4","value":"NA==","durability":$d}]}`,
				`{"type":0,"items":[{"key":"b/1","type":0,"revision":0,"durability":$d,"routeIndex":1},{"type":0},{"type":0},{"type":0},{"type":0}],"routes":[{"partitionId":1,"endpoint":"http://127.0.0.1:2070"}]}`},
			step{"kv/try-get-many", `{"items":[{"key":"b/1","durability":$d},{"key":"none","durability":$d}]}`, `{"type":3,"items":[{"key":"b/1","type":3,"value":"MQ=="},{"key":"none","type":103,"value":null}]}`},
			step{"kv/try-exists-many", `{"items":[{"key":"b/2","durability":$d},{"key":"none","durability":$d}]}`, `{"type":3,"items":[{"key":"b/2","type":10,"value":null},{"type":103}]}`},
			step{"kv/get-by-bucket", `{"prefixKey":"b","durability":$d}`, `{"type":3,"servedFrom":null,"items":[{"key":"b/1","value":"MQ==","revision":0},{"key":"b/2"},{"key":"b/3"}]}`},
			step{"kv/scan-all-by-prefix", `{"prefixKey":"b","durability":$d}`, `{"type":3,"items":[{"key":"b-4"},{"key":"b/1"},{"key":"b/2"},{"key":"b/3"},{"key":"b/3/x"}]}`},
			step{"kv/get-by-range", `{"prefix":"b/","limit":2,"durability":$d}`, `{"type":3,"items":[{"key":"b/1"},{"key":"b/2"}],"hasMore":true,"nextCursor":"@cursor"}`},
			// What changes between two pages is not seen in the second.
			step{"kv/try-set", `{"key":"b/25","value":"eA==","durability":$d}`, `{"type":0}`},
			step{"kv/get-by-range", `{"prefix":"b/","limit":10,"durability":$d,"cursor":@cursor}`, `{"type":3,"items":[{"key":"b/3"},{"key":"b/3/x"}],"hasMore":false,"nextCursor":null}`},
			step{"kv/get-by-range", `{"prefix":"b/","startKey":"b/2","startInclusive":false,"endKey":"b/3","endInclusive":true,"limit":9007199254740991,"durability":$d}`, `{"type":3,"items":[{"key":"b/25"},{"key":"b/3"}],"hasMore":false}`},
			step{"kv/get-by-range", `{"prefix":"","durability":$d}`, `{"type":100,"items":null}`},
			step{"kv/get-by-bucket", `{"prefixKey":null,"durability":$d}`, `{"type":100,"items":null}`},
			step{"kv/scan-all-by-prefix", `{"prefixKey":"","durability":$d}`, `{"type":100,"items":null}`},
			step{"kv/get-by-bucket", `{"prefixKey":"nothing","durability":$d}`, `{"type":3,"items":[]}`},
			step{"kv/try-delete-many", `{"items":[{"key":"b/1","durability":$d},{"key":"","durability":$d},{"key":"b/2","durability":$d}]}`, `{"type":4,"items":[{"key":"b/1","type":4},{"key":"","type":100},{"key":"b/2","type":4}]}`},
			step{"kv/try-set-many", `{"items":null}`, `{"type":100,"items":[{"type":100,"key":null}]}`},
			step{"kv/try-get-many", `{}`, `{"type":100,"items":[]}`},
			// R21: no transaction can take part in these.
			step{"kv/try-set-many", `{"items":[{"transactionId":{"n":0,"l":5,"c":0},"key":"t","value":"eA==","durability":$d}]}`, `{"type":100,"items":[{"key":"t","type":100}]}`},
			step{"kv/try-get-many", `{"transactionId":{"n":0,"l":5,"c":0},"items":[{"key":"t","durability":$d}]}`, `{"type":100,"items":[{"key":"t","type":100}]}`},
			step{"kv/try-delete-many", `{"items":[{"transactionId":{"n":0,"l":5,"c":0},"key":"t","durability":$d}]}`, `{"type":100,"items":[{"key":"t","type":100}]}`},
		)...)
	})
}

func TestSequences(t *testing.T) {
	stories(t, func(s *story) {
		s.play(
			step{"sequences/create", `{"name":" s ","initialValue":10,"increment":5,"maxValue":40}`, `{"type":0,"revision":0,"allocation":{"name":null,"start":0}}`},
			step{"sequences/create", `{"name":"s"}`, `{"type":2,"revision":-1}`},
			step{"sequences/get", `{"name":"s"}`, `{"type":0,"revision":0,"sequence":{"name":"s","currentValue":10,"initialValue":10,"increment":5,"maxValue":40,"durability":1,"blockSize":null,"incarnation":0,"createdAt":{"n":0,"l":"@created"}}}`},
			step{"sequences/next", `{"name":"s"}`, `{"type":0,"allocation":{"name":"s","start":15,"end":15,"count":1}}`},
			step{"sequences/next", `{"name":"s","idempotencyKey":"k"}`, `{"type":0,"allocation":{"start":20}}`},
			step{"sequences/next", `{"name":"s","idempotencyKey":"k"}`, `{"type":0,"allocation":{"start":20}}`},
			step{"sequences/reserve", `{"name":"s","count":2,"idempotencyKey":"k"}`, `{"type":3,"allocation":{"name":null}}`},
			step{"sequences/reserve", `{"name":"s","count":4}`, `{"type":0,"allocation":{"start":25,"end":40,"count":4}}`},
			step{"sequences/next", `{"name":"s"}`, `{"type":4,"allocation":{"name":null,"start":0,"end":0,"count":0,"revision":0},"revision":0}`},
			step{"sequences/update", `{"name":"s","currentValue":null,"maxValue":null,"removeMaxValue":true,"blockSize":7}`, `{"type":0}`},
			step{"sequences/next", `{"name":"s"}`, `{"type":0,"allocation":{"start":45}}`},
			step{"sequences/get", `{"name":"s"}`, `{"sequence":{"maxValue":null,"blockSize":7,"incarnation":1}}`},
			step{"sequences/update", `{"name":"s"}`, `{"type":3}`},
			step{"sequences/update", `{"name":"none","increment":2}`, `{"type":1}`},
			step{"sequences/delete", `{"name":"s"}`, `{"type":0,"revision":0}`},
			step{"sequences/delete", `{"name":"s"}`, `{"type":1}`},
			step{"sequences/get", `{"name":"s"}`, `{"type":1,"revision":-1,"sequence":null}`},
			step{"sequences/next", `{"name":"s"}`, `{"type":1}`},
			step{"sequences/create", `{"name":"t","increment":0}`, `{"type":3}`},
			step{"sequences/create", `{"name":"t","durability":0}`, `{"type":3}`},
			step{"sequences/create", `{"name":"  "}`, `{"type":3}`},
			step{"sequences/reserve", `{"name":"t"}`, `{"type":3}`},
		)
	})
}

func TestSessions(t *testing.T) {
	both(t, func(s *story, d int) {
		const op = `"coordinatorKey":"c","operationIdHigh":1,"operationIdLow":`
		s.play(of(d,
			step{"kv/start-tx-session", `{"coordinatorKey":"c","timeout":5000,"lockingType":0,"autoCommit":true}`, `{"type":0,"transactionId":"@tx"}`},
			step{"kv/try-acquire-exclusive-lock", `{"transactionId":@tx,"key":"k","expiresMs":5000,"durability":$d,` + op + `1}`, `{"type":5}`},
			step{"kv/try-set", `{"transactionId":@tx,"key":"k","value":"dg==","flags":1,"durability":$d,` + op + `2}`, `{"type":0,"revision":0}`},
			step{"kv/try-get", `{"transactionId":@tx,"key":"k","revision":-1,"durability":$d,` + op + `3}`, `{"type":3,"value":"dg=="}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":103}`},
			step{"kv/commit-tx-session", `{"coordinatorKey":"c","transactionId":@tx,"recordAnchorKey":null}`, `{"type":8}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":3,"value":"dg==","revision":0}`},
			step{"kv/commit-tx-session", `{"coordinatorKey":"c","transactionId":@tx,"recordAnchorKey":null}`, `{"type":8}`},
			step{"kv/start-tx-session", `{"coordinatorKey":"c","timeout":5000,"lockingType":"Optimistic"}`, `{"type":0,"transactionId":"@ty"}`},
			step{"kv/try-delete", `{"transactionId":@ty,"key":"k","durability":$d,` + op + `1}`, `{"type":4}`},
			step{"kv/rollback-tx-session", `{"coordinatorKey":"c","transactionId":@ty}`, `{"type":9,"recordAnchorKey":null}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":3,"value":"dg=="}`},
			step{"kv/start-tx-session", `{}`, `{"type":100}`},
			step{"kv/commit-tx-session", `{"transactionId":@ty}`, `{"type":100}`},
			step{"kv/try-acquire-prefix-lock", `{"key":"","expiresMs":5000}`, `{"type":100}`},
			step{"kv/try-acquire-range-lock", `{"prefix":"","expiresMs":5000}`, `{"type":100}`},
			step{"kv/try-execute-tx-script", `{"script":null}`, `{"type":100}`},
		)...)
	})
}

func TestHoldsAndKeySpaces(t *testing.T) {
	stories(t, func(s *story) {
		s.play(
			step{"kv/snapshot-hold/acquire", `{"holderId":"h","timestamp":{"n":3,"l":5,"c":2},"leaseMs":60000}`, `{"type":0,"holdId":"@hold","leaseExpiry":{"l":"@end"}}`},
			step{"kv/snapshot-floor", ``, `{"type":3,"effectiveFloor":{"n":3,"l":5,"c":2},"liveHolds":1}`},
			step{"kv/snapshot-hold/renew", `{"holdId":@hold,"leaseMs":60000}`, `{"type":0}`},
			step{"kv/snapshot-hold/release", `{"holdId":@hold}`, `{"type":"@released"}`},
			step{"kv/snapshot-hold/renew", `{"holdId":@hold,"leaseMs":60000}`, `{"type":103}`},
			step{"kv/snapshot-hold/acquire", `{"holderId":"","leaseMs":60000}`, `{"type":100}`},
			step{"kv/snapshot-hold/acquire", `{"holderId":"h","leaseMs":0}`, `{"type":100}`},
			step{"kv/snapshot-hold/renew", `{"holdId":"","leaseMs":1}`, `{"type":100}`},
			step{"kv/snapshot-floor", ``, `{"type":3,"effectiveFloor":{"n":0,"l":0,"c":0},"liveHolds":0}`},

			step{"ranges/register", `{"keySpace":"orders"}`, `{"success":true,"status":"Seeded","seeded":true,"routingMode":"KeyRange","descriptorCount":1}`},
			step{"ranges/register", `{"keySpace":"orders"}`, `{"success":true,"status":"AlreadySeeded"}`},
			step{"ranges?keySpace=orders", ``, `{"initialized":true,"keySpaces":[{"keySpace":"orders","descriptors":[{"startKey":null,"endKey":null,"partitionId":1,"generation":1}]}]}`},
			step{"cluster/routing?keySpace=", ``, `{"schemaVersion":1,"coherent":true,"hashPoolSize":1,"keySpaces":[{"keySpace":"orders"}],"leaders":[{"partitionId":1,"endpoint":"http://127.0.0.1:2070"}]}`},
			step{"ranges/split", `{"keySpace":"orders","splitKey":"orders/m"}`, `{"success":false,"determinate":true,"leaderHint":null}`},
			step{"ranges/merge", `{}`, `{"success":true,"status":"Completed","merges":0}`},
			step{"ranges/unregister", `{"keySpace":"orders"}`, `{"success":true,"status":"Removed"}`},
			step{"ranges/register", `{"keySpace":"a/meta"}`, `{"success":false,"status":"InvalidInput"}`},
			step{"cluster/membership", ``, `{"initialized":true,"localRole":"Voter","members":[{"endpoint":"127.0.0.1:7351","role":"Voter"}]}`},
			step{"cluster/health", ``, `{"ready":true,"localRole":"Voter","hostedPartitions":1}`},
			step{"cluster/placement", ``, `{"partitions":[{"partitionId":1,"state":"Active","hostedLocally":true}]}`},
			step{"cluster/replication-factor", `{"partitionId":0,"replicationFactor":1}`, `{"success":false,"status":"InvalidInput"}`},
			step{"cluster/leave", `{}`, `{"left":false,"outcome":"RefusedInsufficientVoters","retryable":false}`},
			step{"backups", ``, `{"outcome":"NotConfigured","status":503}`},
			step{"restore", `{"leafBackupId":"6b1d5cd4-2ec2-4f0f-9a10-5c8e9a8b7c01","targetDir":"/x"}`, `{"outcome":"NotConfigured"}`},
		)
	})
}

// Nobody decides: every route that has a code for it says so in it.
func TestWithoutAQuorum(t *testing.T) {
	stories(t, func(s *story) {
		s.q.lose(replication.ErrUnavailable)
		s.play(
			step{"locks/try-lock", `{"resource":"r","owner":"bWU=","expiresMs":1000,"durability":1}`, `{"type":101}`},
			step{"locks/get-info", `{"resource":"r","durability":1}`, `{"type":101}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","durability":1}`, `{"type":101}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":1}`, `{"type":101}`},
			step{"kv/get-by-bucket", `{"prefixKey":"p","durability":1}`, `{"type":101}`},
			step{"sequences/next", `{"name":"s"}`, `{"type":5}`},
			step{"kv/start-tx-session", `{"coordinatorKey":"c"}`, `{"type":101}`},
		)
	})
}
