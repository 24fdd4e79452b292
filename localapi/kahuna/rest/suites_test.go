package rest_test

import (
	"encoding/base64"
	"testing"
	"time"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// What the suites of both clients assert of REST answers, beyond the rules
// (kahuna-ts test/key-values.test.ts and others; Kahuna.Client.Tests).
func TestWhatTheSuitesAssertOfKeys(t *testing.T) {
	both(t, func(s *story, d int) {
		s.play(of(d,
			step{"kv/try-set", `{"key":"never","value":"eA==","flags":4,"durability":$d}`, `{"type":1,"revision":-1}`},
			step{"kv/try-set", `{"key":"never","value":"eA==","flags":16,"compareValue":"b2xk","durability":$d}`, `{"type":1}`},
			step{"kv/try-set", `{"key":"never","value":"eA==","flags":32,"compareRevision":0,"durability":$d}`, `{"type":1}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","expiresMs":10000,"flags":8,"durability":$d}`, `{"type":0,"revision":0}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","expiresMs":10000,"flags":8,"durability":$d}`, `{"type":1,"revision":0}`},
			// A delete is a revision of its own; a get that finds nothing says 0.
			step{"kv/try-delete", `{"key":"k","durability":$d}`, `{"type":4,"revision":1}`},
			step{"kv/try-get", `{"key":"k","revision":-1,"durability":$d}`, `{"type":103,"value":null,"revision":0}`},
			step{"kv/try-set", `{"key":"k","value":"eA==","flags":4,"durability":$d}`, `{"type":1,"revision":1}`},
			step{"kv/try-set", `{"key":"k","value":"eQ==","flags":1,"durability":$d}`, `{"type":0,"revision":2}`},
			step{"kv/try-set", `{"key":"k","value":"eg==","flags":32,"compareRevision":10,"durability":$d}`, `{"type":1,"revision":2}`},
			// No history: the count goes on.
			step{"kv/try-set", `{"key":"n","value":"MQ==","flags":2,"durability":$d}`, `{"type":0,"revision":0}`},
			step{"kv/try-set", `{"key":"n","value":"Mg==","flags":2,"durability":$d}`, `{"type":0,"revision":1}`},
			step{"kv/try-set", `{"key":"e","value":"eA==","expiresMs":1000,"flags":1,"durability":$d}`, `{"type":0,"revision":0}`},
			step{"kv/try-set", `{"key":"x","value":"eA==","expiresMs":1000,"flags":1,"durability":$d}`, `{"type":0,"revision":0}`},
			step{"kv/try-extend", `{"key":"x","expiresMs":5000,"durability":$d}`, `{"type":2,"revision":0}`},
			step{"kv/try-extend", `{"key":"none","expiresMs":5000,"durability":$d}`, `{"type":103}`},
			step{"kv/try-delete", `{"key":"none","durability":$d}`, `{"type":103}`},
			step{"kv/get-by-bucket", `{"prefixKey":"empty","durability":$d}`, `{"type":3,"items":[]}`},
		)...)
		s.q.advance(2 * time.Second)
		s.play(of(d,
			step{"kv/try-get", `{"key":"e","revision":-1,"durability":$d}`, `{"type":103,"value":null,"revision":0}`},
			step{"kv/try-get", `{"key":"x","revision":-1,"durability":$d}`, `{"type":3,"value":"eA==","revision":0}`},
		)...)
	})
}

func TestWhatTheSuitesAssertOfScripts(t *testing.T) {
	script := func(text, want string) step {
		return step{"kv/try-execute-tx-script", `{"hash":null,"script":"` + b64(text) + `","parameters":[{"key":"@key","value":"p"},{"key":"@value","value":"v"},{"key":"@n","value":"2"}],"priority":2}`, want}
	}
	stories(t, func(s *story) {
		s.play(
			script("SET `k` 'some value'", `{"type":0,"reason":null,"values":[{"revision":0}]}`),
			script("GET `k`", `{"type":3,"value":"`+b64("some value")+`","revision":0,"values":[{"key":"k","revision":0,"value":"`+b64("some value")+`"}]}`),
			script("EXTEND `k` 1000", `{"type":2,"values":[{"revision":0}]}`),
			script("EXISTS `k`", `{"type":10,"values":[{"revision":0}]}`),
			script("DELETE `k`", `{"type":4,"values":[{"revision":1}]}`),
			script("SET @key @value", `{"type":0,"values":[{"revision":0}]}`),
			script("\nBEGIN (locking=\"optimistic\")\n SET @key @value\n COMMIT\nEND\n", `{"type":0}`),
			step{"kv/try-get", `{"key":"p","revision":-1,"durability":1}`, `{"type":3,"value":"` + b64("v") + `","revision":1}`},
			script("INVALID SYNTAX", `{"type":99,"reason":"@syntax"}`),
			script("LET n = to_int(@n)\nLET out = ''\nFOR j IN 0..(n - 1) DO\n LET out = concat(out, to_string(j))\nEND\nESET @key out EX n * 500 + 1000\nRETURN concat(\"1:\", out)", `{"type":3,"value":"`+b64("1:01")+`"}`),
			step{"kv/try-get", `{"key":"p","revision":-1,"durability":0}`, `{"type":3,"value":"` + b64("01") + `","expires":{"l":"@end"}}`},
		)
		if reason := s.known["@syntax"]; len(reason) < 14 || reason[1:13] != "Syntax error" {
			t.Errorf("the reason of a syntax error is %s", reason)
		}
	})
}

func TestWhatTheSuitesAssertOfSnapshotHolds(t *testing.T) {
	stories(t, func(s *story) {
		s.play(
			step{"kv/snapshot-hold/acquire", `{"holderId":"a","timestamp":{"n":3,"l":1000000000,"c":2},"leaseMs":60000}`, `{"type":0,"holdId":"@low"}`},
			step{"kv/snapshot-hold/acquire", `{"holderId":"b","timestamp":{"n":5,"l":2000000000,"c":9},"leaseMs":60000}`, `{"type":0,"holdId":"@high"}`},
			step{"kv/snapshot-floor", ``, `{"effectiveFloor":{"n":3,"l":1000000000,"c":2},"liveHolds":2}`},
			step{"kv/snapshot-hold/release", `{"holdId":@low}`, `{"type":4}`},
			step{"kv/snapshot-floor", ``, `{"effectiveFloor":{"n":5,"l":2000000000,"c":9},"liveHolds":1}`},
			step{"kv/snapshot-hold/release", `{"holdId":@high}`, `{"type":4}`},
			step{"kv/snapshot-floor", ``, `{"effectiveFloor":{"n":0,"l":0,"c":0},"liveHolds":0}`},
		)
	})
}
