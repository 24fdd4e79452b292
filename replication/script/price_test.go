package script_test

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// priced are scripts that spend their fuel mostly on one thing each.
var priced = map[string]string{
	"nodes":      "LET n = 0 FOR i IN 1..1000 DO LET n = n + i * 2 - i END RETURN n",
	"calls":      "LET n = 0 FOR i IN 1..1000 DO LET n = max(abs(i), min(i, n)) END RETURN n",
	"texts":      "LET s = '" + strings.Repeat("x", 1000) + "' LET n = 0 FOR i IN 1..100 DO LET t = concat(s, s) LET n = n + len(upper(t)) END RETURN n",
	"split":      "LET s = '" + strings.Repeat("x:", 1000) + "' FOR i IN 1..20 DO LET t = split(s, ':') END RETURN count(t)",
	"arrays":     "FOR i IN 1..20 DO LET t = 1..1000 END RETURN count(t)",
	"json":       "LET t = 1..1000 FOR i IN 1..10 DO LET s = to_json(t) END RETURN s",
	"powers":     "LET n = 0 FOR i IN 1..300 DO LET n = pow(1.0001, i) END RETURN n",
	"statements": "FOR i IN 1..1000 DO IF false THEN COMMIT END END RETURN 1",
}

// BenchmarkPrices shows how many nanoseconds one unit of fuel buys, for each kind of
// work: about 1 is meant, and none may be far above, or entries would take longer
// than EntryFuel says.
func BenchmarkPrices(b *testing.B) {
	for name, text := range priced {
		b.Run(name, func(b *testing.B) {
			p, err := script.Parse(text)
			if err != nil {
				b.Fatal(err)
			}
			store := scripttest.NewMemory()
			var e script.Evaluator
			fuel := int64(0)
			for b.Loop() {
				res, err := e.Run(p, store, script.Env{Fuel: 1 << 40})
				if err != nil || res.Type != script.TypeGet {
					b.Fatal(res, err)
				}
				fuel += res.Fuel
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(fuel), "ns/unit")
		})
	}
	b.Run("parse", func(b *testing.B) {
		text := strings.Repeat("LET a = (b + 12345) * len('text') # remark\nSET `k/e/y` a EX 5000 NX\n", 100)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := script.Parse(text); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(int64(b.N)*script.ParseFuel([]byte(text))), "ns/unit")
	})
}
