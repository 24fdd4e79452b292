package localapi

import (
	"net/http"
	"strings"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// access says what a row asks of the caller before its handler runs.
type access string

const (
	// public: everybody may, also on TCP.
	public access = "public"
	// somewhere: whoever may read anything at all.
	somewhere access = "somewhere"
	// onName: the row's verb on the name in the path.
	onName access = "name"
	// onPrefix: the row's verb on the prefix in the query.
	onPrefix access = "prefix"
	// inside: the handler asks for the verb, since the names come in the body or
	// on the stream.
	inside access = "inside"
	// transacting: whoever may read or write anything at all; names are judged
	// with each operation.
	transacting access = "transacting"
)

// route is one row of the table. What is not in the table is refused.
type route struct {
	name   string // in metrics and logs
	method string
	path   string // below it comes /NAME when named, and then action
	named  bool
	action string // last segment behind the name
	access access
	verb   policy.Verb
	tcp    bool     // also on TCP
	bare   bool     // takes no body, as no GET and no DELETE does
	query  []string // parameters that it knows
	handle func(*Server, *exchange) error
}

const apiRoot = "/kahu/v1"

func routeTable() []route {
	const locks, kv, sequences = apiRoot + "/locks", apiRoot + "/kv", apiRoot + "/sequences"
	const transactions = apiRoot + "/transactions"
	const snapshots, keySpaces = apiRoot + "/snapshots", apiRoot + "/key-spaces"
	kvRead := []string{"durability", "stale", "revision", "history", "keys_only", "before", "limit", "as_of"}
	kvWrite := []string{"durability", "ttl", "null", "no_history"}
	page := []string{"prefix", "after", "limit"}
	return append(clusterRoutes(), []route{
		{name: "health_live", method: "GET", path: apiRoot + "/health/live", access: public, tcp: true, handle: (*Server).getLive},
		{name: "health_ready", method: "GET", path: apiRoot + "/health/ready", access: public, tcp: true, handle: (*Server).getReady},
		{name: "metrics", method: "GET", path: "/metrics", access: somewhere, verb: policy.Read, tcp: true, handle: (*Server).getMetrics},
		{name: "status", method: "GET", path: apiRoot + "/status", access: somewhere, verb: policy.Read, handle: (*Server).getStatus},
		{name: "stream", method: "GET", path: wire.StreamPath, access: inside, handle: (*Server).upgrade},
		{name: "backup", method: "GET", path: wire.BackupPath, access: inside, verb: policy.Admin, handle: (*Server).getBackup},

		{name: "holds_list", method: "GET", path: apiRoot + "/holds", access: somewhere, verb: policy.Read, handle: (*Server).getHolds},
		{name: "holds_open", method: "POST", path: apiRoot + "/holds", access: inside, verb: policy.Lock, handle: (*Server).postHold},

		{name: "locks_list", method: "GET", path: locks, access: onPrefix, verb: policy.Read, query: append([]string{"durability"}, page...), handle: (*Server).getLocks},
		{name: "locks_get", method: "GET", path: locks, named: true, access: onName, verb: policy.Read, query: []string{"durability"}, handle: (*Server).getLock},
		{name: "locks_try", method: "POST", path: locks, named: true, action: "/try", access: onName, verb: policy.Lock, handle: (*Server).postLockTry},
		{name: "locks_extend", method: "POST", path: locks, named: true, action: "/extend", access: onName, verb: policy.Lock, handle: (*Server).postLockExtend},
		{name: "locks_unlock", method: "POST", path: locks, named: true, action: "/unlock", access: onName, verb: policy.Lock, handle: (*Server).postLockUnlock},
		{name: "locks_break", method: "POST", path: locks, named: true, action: "/break", access: onName, verb: policy.Admin, handle: (*Server).postLockBreak},

		{name: "kv_list", method: "GET", path: kv, access: onPrefix, verb: policy.Read, query: append([]string{"durability", "stale", "keys_only", "bucket", "as_of"}, page...), handle: (*Server).getKeys},
		{name: "kv_get", method: "GET", path: kv, named: true, access: onName, verb: policy.Read, query: kvRead, handle: (*Server).getKey},
		{name: "kv_put", method: "PUT", path: kv, named: true, access: onName, verb: policy.Write, query: kvWrite, handle: (*Server).putKey},
		{name: "kv_delete", method: "DELETE", path: kv, named: true, access: onName, verb: policy.Write, query: []string{"durability"}, handle: (*Server).deleteKey},
		{name: "kv_extend", method: "POST", path: kv, named: true, action: "/extend", access: onName, verb: policy.Write, query: []string{"durability", "ttl"}, bare: true, handle: (*Server).postKeyExtend},

		{name: "sequences_list", method: "GET", path: sequences, access: onPrefix, verb: policy.Read, query: page, handle: (*Server).getSequences},
		{name: "sequences_get", method: "GET", path: sequences, named: true, access: onName, verb: policy.Read, handle: (*Server).getSequence},
		{name: "sequences_create", method: "PUT", path: sequences, named: true, access: onName, verb: policy.Sequence, handle: (*Server).putSequence},
		{name: "sequences_update", method: "PATCH", path: sequences, named: true, access: onName, verb: policy.Sequence, handle: (*Server).patchSequence},
		{name: "sequences_delete", method: "DELETE", path: sequences, named: true, access: onName, verb: policy.Sequence, handle: (*Server).deleteSequence},
		{name: "sequences_next", method: "POST", path: sequences, named: true, action: "/next", access: onName, verb: policy.Sequence, bare: true, handle: (*Server).postSequenceNext},
		{name: "sequences_reserve", method: "POST", path: sequences, named: true, action: "/reserve", access: onName, verb: policy.Sequence, handle: (*Server).postSequenceReserve},

		{name: "scripts_run", method: "POST", path: apiRoot + "/scripts", access: inside, handle: (*Server).postScript},
		{name: "limits_take", method: "POST", path: apiRoot + "/limits", named: true, action: "/take", access: onName, verb: policy.Write, handle: (*Server).postLimitTake},
		{name: "limits_acquire", method: "POST", path: apiRoot + "/limits", named: true, action: "/acquire", access: onName, verb: policy.Write, handle: (*Server).postLimitAcquire},
		{name: "limits_renew", method: "POST", path: apiRoot + "/limits", named: true, action: "/renew", access: onName, verb: policy.Write, handle: (*Server).postLimitRenew},
		{name: "limits_release", method: "POST", path: apiRoot + "/limits", named: true, action: "/release", access: onName, verb: policy.Write, handle: (*Server).postLimitRelease},

		{name: "transactions_list", method: "GET", path: transactions, access: somewhere, verb: policy.Read, query: []string{"after", "limit"}, handle: (*Server).getTransactions},
		{name: "transactions_start", method: "POST", path: transactions, access: transacting, handle: (*Server).postTransaction},
		{name: "transactions_read", method: "POST", path: transactions, named: true, action: "/read", access: transacting, handle: (*Server).postTxRead},
		{name: "transactions_write", method: "POST", path: transactions, named: true, action: "/write", access: transacting, handle: (*Server).postTxWrite},
		{name: "transactions_lock", method: "POST", path: transactions, named: true, action: "/lock", access: transacting, handle: (*Server).postTxLock},
		{name: "transactions_unlock", method: "POST", path: transactions, named: true, action: "/unlock", access: transacting, handle: (*Server).postTxUnlock},
		{name: "transactions_commit", method: "POST", path: transactions, named: true, action: "/commit", access: transacting, bare: true, handle: (*Server).postTxCommit},
		{name: "transactions_rollback", method: "POST", path: transactions, named: true, action: "/rollback", access: transacting, bare: true, handle: (*Server).postTxRollback},

		{name: "snapshots_list", method: "GET", path: snapshots, access: somewhere, verb: policy.Read, handle: (*Server).getSnapshots},
		{name: "snapshots_hold", method: "POST", path: snapshots, access: somewhere, verb: policy.Write, handle: (*Server).postSnapshot},
		{name: "snapshots_renew", method: "POST", path: snapshots, named: true, action: "/renew", access: somewhere, verb: policy.Write, handle: (*Server).postSnapshotRenew},
		{name: "snapshots_release", method: "DELETE", path: snapshots, named: true, access: somewhere, verb: policy.Write, handle: (*Server).deleteSnapshot},

		{name: "key_spaces_list", method: "GET", path: keySpaces, access: somewhere, verb: policy.Read, query: []string{"after", "limit"}, handle: (*Server).getKeySpaces},
		{name: "key_spaces_register", method: "PUT", path: keySpaces, named: true, access: onName, verb: policy.Write, bare: true, handle: (*Server).putKeySpace},
		{name: "key_spaces_remove", method: "DELETE", path: keySpaces, named: true, access: onName, verb: policy.Write, handle: (*Server).deleteKeySpace},
	}...)
}

// match compares an escaped path with the row, and returns the name in it, still
// escaped: a name may have slashes, escaped or not, so that the path must not be
// cleaned.
func (r *route) match(escapedPath string) (name string, ok bool) {
	if !r.named {
		return "", escapedPath == r.path
	}
	rest, ok := strings.CutPrefix(escapedPath, r.path+"/")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, r.action)
}

// find returns the row for a request, or the methods that the path takes.
func (s *Server) find(method, escapedPath string, tcp bool) (row *route, name string, allow []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range s.routes {
		r := &s.routes[i]
		if tcp && !r.tcp {
			continue
		}
		name, ok := r.match(escapedPath)
		if !ok {
			continue
		}
		if r.method == method {
			return r, name, nil
		}
		allow = append(allow, r.method)
		if r.method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	return nil, "", allow
}
