package localapi_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

const txRoot = "/kahu/v1/transactions"

// begin starts a transaction over HTTP and returns its path.
func begin(t *testing.T, c *http.Client, body string) string {
	t.Helper()
	res, text := ask(t, c, "POST", txRoot, body)
	var begun wire.TxBegun
	if err := json.Unmarshal([]byte(text), &begun); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s, %v", res.StatusCode, text, err)
	}
	if res.Header.Get("Location") != txRoot+"/"+begun.Transaction || begun.RemainingMS <= 0 {
		t.Errorf("%v, %s", res.Header, text)
	}
	return txRoot + "/" + begun.Transaction
}

// TestTransactionsOverHTTP tells one story of two transactions, T and U.
func TestTransactionsOverHTTP(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	paths := map[byte]string{'T': begin(t, c, `{"timeout":"30s","priority":"high"}`), 'U': begin(t, c, "")}
	for _, step := range []struct {
		path, body string
		status     int
		want       string // a part of the answer
		key        string
	}{
		{"T/read", `{"keys":[{"key":"a"}]}`, 200, `{"entries":[{"key":"a","durability":"persistent","revision":0,"value":null,"found":false}]}`, ""},
		{"T/write", `{"writes":[{"key":"a","text":"one"},{"key":"b","value":"AAE=","ttl":"1m"}]}`, 200, `{"items":[{"key":"a","code":"ok","revision":0},{"key":"b","code":"ok","revision":0}]}`, "w1"},
		{"T/write", `{"writes":[{"key":"a","text":"one"},{"key":"b","value":"AAE=","ttl":"1m"}]}`, 200, `{"items":[{"key":"a","code":"ok","revision":0},{"key":"b","code":"ok","revision":0}]}`, "w1"},
		{"T/write", `{"writes":[{"key":"a","text":"other"}]}`, 422, `"code":"key-reused"`, "w1"},
		{"T/write", `{"writes":[{"key":"a","text":"x","if_not_exists":true}]}`, 412, `"revision":0`, ""},
		{"T/write", `{"writes":[{"key":"a","if_not_exists":true},{"do":"delete","key":"nope"}]}`, 200, `{"items":[{"key":"a","code":"condition-failed","revision":0},{"key":"nope","code":"not-found","revision":-1}]}`, ""},
		{"T/read", `{"keys":[{"key":"a"},{"key":"b"}]}`, 200, `"value":"b25l","modified":"2023-11-14T22:13:20.000Z","found":true},{"key":"b"`, ""},
		{"T/read", `{"prefix":"","keys_only":true,"limit":1}`, 200, `"next":"a"`, ""},
		{"T/read", `{"prefix":"","after":"a"}`, 200, `{"entries":[{"key":"b"`, ""},
		{"U/read", `{"keys":[{"key":"a"}]}`, 200, `"found":false`, ""},
		{"U/write", `{"writes":[{"key":"a","text":"two"}]}`, 423, `"code":"locked"`, ""},
		{"U/lock", `{"locks":[{"key":"z"},{"key":"a"}]}`, 423, `has locked \"a\"`, ""},
		{"U/lock", `{"locks":[{"key":"z"},{"bucket":"p"},{"prefix":"q/","start":"q/1","end":"q/5","shared":true}]}`, 204, "", ""},
		{"U/unlock", `{"locks":[{"key":"z"}]}`, 204, "", ""},
		{"T/commit", "", 200, `"outcome":"committed","writes":2}`, ""},
		{"T/commit", "", 200, `"outcome":"committed","writes":2}`, ""},
		{"T/rollback", "", 200, `"outcome":"committed","writes":2}`, ""},
		{"T/read", `{"keys":[{"key":"a"}]}`, 409, `"code":"aborted"`, ""},
		{"U/read", `{"keys":[{"key":"a"}]}`, 409, `has changed since`, ""},
		{"U/commit", "", 409, `"code":"aborted"`, ""},
		{"U/rollback", "", 200, `"outcome":"rolled-back","writes":0}`, ""},
		{"U/commit", "", 409, `"code":"aborted"`, ""},
	} {
		headers := []string{}
		if step.key != "" {
			headers = []string{"Idempotency-Key", step.key}
		}
		res, body := ask(t, c, "POST", paths[step.path[0]]+step.path[1:], step.body, headers...)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s %s\n= %d %s\nwant %d %s", step.path, step.body, res.StatusCode, body, step.status, step.want)
		}
	}
	if res, body := ask(t, c, "GET", "/kahu/v1/kv/a", ""); body != "one" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// TestTransactionsRefuse: bad input is named, and changes nothing.
func TestTransactionsRefuse(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	tx := begin(t, c, "")
	for _, step := range []struct {
		path, body string
		status     int
		want       string
	}{
		{txRoot, `{"locking":"both"}`, 400, "optimistic or pessimistic"},
		{txRoot, `{"priority":"urgent"}`, 400, "the priority is"},
		{txRoot, `{"timeout":"soon"}`, 400, "the timeout is a length of time"},
		{txRoot, `{"wait":"-1s"}`, 400, "the wait is a length of time"},
		{txRoot, `{"as_of":"once"}`, 400, `"code":"invalid"`},
		{txRoot, `{"coordinator_key":"x"}`, 400, "unknown field"},
		{txRoot + "/5/commit", "", 400, "no name of a transaction"},
		{txRoot + "/x-y-z/commit", "", 400, "no name of a transaction"},
		{txRoot + "/-5-5/commit", "", 400, "no name of a transaction"},
		{tx + "/read", `{}`, 400, "1 to 1000 keys"},
		{tx + "/read", `{"keys":[{"key":"a"}],"prefix":""}`, 400, "keys or a prefix"},
		{tx + "/read", `{"keys":[{"key":"a"}],"limit":1}`, 400, "go with a prefix"},
		{tx + "/read", `{"keys":[{"key":"a","durability":"holy"}]}`, 400, `"code":"invalid"`},
		{tx + "/write", `{"writes":[]}`, 400, "1 to 1000 keys"},
		{tx + "/write", `{"writes":[{"key":"a","value":"AA==","text":"b"}]}`, 400, "change 1: a change has a value or a text"},
		{tx + "/write", `{"writes":[{"key":"a","do":"delete","text":"b"}]}`, 400, "are for a set"},
		{tx + "/write", `{"writes":[{"key":"a","do":"extend"}]}`, 400, "needs one"},
		{tx + "/write", `{"writes":[{"key":"a","do":"incr"}]}`, 400, "set, delete or extend"},
		{tx + "/write", `{"writes":[{"key":"a","ttl":"48h"}]}`, 400, `"code":"invalid"`},
		{tx + "/lock", `{"locks":[]}`, 400, "1 to 1000 locks"},
		{tx + "/lock", `{"locks":[{"key":"a","prefix":"b"}]}`, 400, "lock 1: a lock names one of"},
		{tx + "/lock", `{"locks":[{"key":"a","shared":true}]}`, 400, "go with a prefix"},
	} {
		res, body := ask(t, c, "POST", step.path, step.body)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) || res.Header.Get("Content-Type") != wire.ProblemContentType {
			t.Errorf("%s %s\n= %d %s\nwant %d %s", step.path, step.body, res.StatusCode, body, step.status, step.want)
		}
	}
	if res, body := ask(t, c, "POST", tx+"/commit", ""); res.StatusCode != 200 || !strings.Contains(body, `"writes":0`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// TestTransactionsBelongToWhoBeganThem: an id without its secret opens nothing
// but an administrator's rollback, and no list shows the secret.
func TestTransactionsBelongToWhoBeganThem(t *testing.T) {
	a := startAgent(t)
	c := a.http(t)
	tx := begin(t, c, `{"timeout":"30s"}`)
	secret := tx[strings.LastIndexByte(tx, '-')+1:]
	id := strings.TrimSuffix(tx, "-"+secret)
	res, list := ask(t, c, "GET", txRoot, "")
	if res.StatusCode != 200 || !strings.Contains(list, strings.TrimPrefix(id, txRoot+"/")) || strings.Contains(list, secret) {
		t.Errorf("%d %s", res.StatusCode, list)
	}
	answer, err := a.client(t).Do(t.Context(), &replication.Request{Op: &replication.Request_TxList{TxList: &replication.TxList{}}})
	if err != nil || len(answer.GetTransactions().GetTransactions()) != 1 || strings.Contains(answer.String(), secret) {
		t.Errorf("%v, %v", answer, err)
	}
	write := `{"writes":[{"key":"a","text":"x"}]}`
	for path, status := range map[string]int{
		id + "/write": 400, id + "/commit": 400, id + "-" + strings.Repeat("0", 32) + "/write": 409, tx + "/write": 200,
	} {
		if res, body := ask(t, c, "POST", path, write); res.StatusCode != status {
			t.Errorf("%s = %d %s, want %d", path, res.StatusCode, body, status)
		}
	}
	if res, body := ask(t, c, "POST", id+"/rollback", ""); res.StatusCode != 200 {
		t.Errorf("an administrator could not roll back: %d %s", res.StatusCode, body)
	}
	if res, body := ask(t, c, "POST", tx+"/commit", ""); res.StatusCode != 409 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// TestTransactionsObeyThePolicy: each operation by its names, in HTTP and on the
// stream.
func TestTransactionsObeyThePolicy(t *testing.T) {
	rules := []policy.Rule{{Everyone: true, Prefixes: []string{"mine/"}, Allow: []policy.Verb{policy.Read, policy.Write}},
		{Everyone: true, Prefixes: []string{"theirs/"}, Allow: []policy.Verb{policy.Read}}}
	a := startAgent(t, allowing(rules...))
	c := a.http(t)
	tx := begin(t, c, "")
	for _, step := range []struct {
		path, body string
		status     int
	}{
		{"/read", `{"keys":[{"key":"mine/a"},{"key":"theirs/a"}]}`, 200},
		{"/read", `{"keys":[{"key":"mine/a"},{"key":"other"}]}`, 403},
		{"/read", `{"prefix":"theirs/x"}`, 200},
		{"/read", `{"prefix":""}`, 403},
		{"/write", `{"writes":[{"key":"mine/a","text":"1"}]}`, 200},
		{"/write", `{"writes":[{"key":"mine/a","text":"1"},{"key":"theirs/a","text":"1"}]}`, 403},
		{"/write", `{"writes":[{"do":"delete","key":"theirs/a"}]}`, 403},
		{"/lock", `{"locks":[{"key":"mine/b"},{"bucket":"mine"},{"prefix":"mine/x"}]}`, 204},
		{"/lock", `{"locks":[{"key":"theirs/b"}]}`, 403},
		{"/lock", `{"locks":[{"bucket":"theirs"}]}`, 403},
		{"/lock", `{"locks":[{"prefix":"mine"}]}`, 403},
		{"/unlock", `{"locks":[{"prefix":"theirs/"}]}`, 403},
	} {
		if res, body := ask(t, c, "POST", tx+step.path, step.body); res.StatusCode != step.status {
			t.Errorf("%s %s = %d %s, want %d", step.path, step.body, res.StatusCode, body, step.status)
		}
	}
	id, _, err := wire.ParseTxName(strings.TrimPrefix(tx, txRoot+"/"))
	if err != nil {
		t.Fatal(err)
	}
	if res, _ := ask(t, c, "POST", txRoot+"/"+wire.TxName(id, "")+"/rollback", ""); res.StatusCode != 403 {
		t.Errorf("who is no administrator rolls back: %d", res.StatusCode)
	}
	for _, req := range []*replication.Request{
		{Op: &replication.Request_TxWrite{TxWrite: &replication.TxWrite{Tx: &replication.TxRef{Id: id, CoordinatorKey: "x"}, Items: []*replication.WriteItem{{Key: "theirs/a"}}}}},
		{Op: &replication.Request_TxRead{TxRead: &replication.TxRead{Tx: &replication.TxRef{Id: id, CoordinatorKey: "x"}, Keys: []*replication.GetKey{{Key: "other"}}}}},
		{Op: &replication.Request_TxLock{TxLock: &replication.TxLock{Tx: &replication.TxRef{Id: id, CoordinatorKey: "x"}, Locks: []*replication.TxLockItem{{Key: "other"}}}}},
		{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{}}},
	} {
		if got, err := a.client(t).Do(t.Context(), req); err == nil {
			t.Errorf("%v = %v", req, got)
		}
	}
	// Who may only lock has no use for a transaction.
	b := startAgent(t, allowing(own(policy.Lock)))
	if res, body := ask(t, b.http(t), "POST", txRoot, ""); res.StatusCode != 403 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// TestValuesInJSON sends values of the configured limit in JSON, and one byte more.
func TestValuesInJSON(t *testing.T) {
	const limit = 200_000
	a := startAgent(t, scripting, func(c *localapi.Config) { c.MaxValueBytes = limit })
	c := a.http(t)
	tx := begin(t, c, `{"timeout":"30s"}`)
	for _, step := range []struct {
		path, body string
		status     int
		want       string
	}{
		{tx + "/write", `{"writes":[{"key":"a","value":"` + base64.StdEncoding.EncodeToString(make([]byte, limit)) + `"}]}`, 200, `"code":"ok"`},
		{tx + "/write", `{"writes":[{"key":"b","text":"` + strings.Repeat("x", limit) + `"}]}`, 200, `"code":"ok"`},
		{tx + "/write", `{"writes":[{"key":"c","text":"` + strings.Repeat("x", limit+1) + `"}]}`, 413, `"code":"too-large"`},
		{tx + "/write", `{"writes":[{"key":"c","text":"` + strings.Repeat("x", 2*limit) + `"}]}`, 413, `the limit is`},
		{tx + "/lock", `{"locks":[{"key":"` + strings.Repeat("x", limit) + `"}]}`, 413, `the limit is 65536`},
		{"/kahu/v1/scripts", `{"script":"SET d @v","parameters":[{"name":"v","value":"` + strings.Repeat("x", limit) + `"}]}`, 200, `"type":"set"`},
		{"/kahu/v1/scripts", `{"script":"SET d @v","parameters":[{"name":"v","value":"` + strings.Repeat("x", 2*limit) + `"}]}`, 413, `the limit is`},
	} {
		res, body := ask(t, c, "POST", step.path, step.body)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%.60s…\n= %d %.300s\nwant %d %s", step.body, res.StatusCode, body, step.status, step.want)
		}
	}
}
