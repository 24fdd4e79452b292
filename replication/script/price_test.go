package script_test

import (
	"math/big"
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

	"hard double":    "LET s = '1E309' FOR i IN 1..100 DO LET n = to_double(s) END RETURN 1",
	"least double":   "LET s = '5e-324' FOR i IN 1..100 DO LET n = s + 1 END RETURN 1",
	"halfway double": "LET s = '" + halfway() + "' FOR i IN 1..100 DO LET n = to_double(s) END RETURN 1",
	"long integers":  "LET s = '" + strings.Repeat("0", 990) + "12' FOR i IN 1..100 DO LET n = to_int(s) END RETURN 1",
	"doubles":        "LET d = 1.2345678901234567 / 3 LET d = [d,d,d,d,d,d,d,d,d,d] FOR i IN 1..100 DO LET s = to_json(d) END RETURN 1",
	"large powers":   "FOR i IN 1..300 DO LET n = pow(1.0000000001, 1234567890123.75) END RETURN 1",
	"long separator": "LET s = '" + strings.Repeat(strings.Repeat("a", 69)+"b"+strings.Repeat("a", 70), 40) + "' LET z = '" + strings.Repeat("a", 70) + "' FOR i IN 1..100 DO LET t = split(s, z) END RETURN 1",
	"almost found":   "LET s = '" + strings.Repeat("ab", 2500) + "' LET z = '" + strings.Repeat("ab", 35) + "c' FOR i IN 1..100 DO LET n = index_of(s, z) END RETURN 1",
	"blanks":         "LET s = '" + strings.Repeat("\u3000", 2000) + "' FOR i IN 1..100 DO LET t = trim(s) END RETURN 1",
	"letters":        "LET s = '" + strings.Repeat("ж", 2000) + "' FOR i IN 1..100 DO LET n = len(s) END RETURN 1",
	"parts":          "LET s = '" + strings.Repeat("ж", 2000) + "' FOR i IN 1..100 DO LET t = substring(s, 1, 1500) END RETURN 1",
}

// halfway is the longest way to write a Double that needs rounding: it lies between
// the least two.
func halfway() string {
	return new(big.Float).SetPrec(4000).SetMantExp(big.NewFloat(3), -1075).Text('e', 760)
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
		benchParse(b, strings.Repeat("LET a = (b + 12345) * len('text') # remark\nSET `k/e/y` a EX 5000 NX\n", 100))
	})
	b.Run("parse sums", func(b *testing.B) {
		benchParse(b, strings.Repeat("RETURN 1"+strings.Repeat("+1", 490)+" ", 4))
	})
	b.Run("parse lists", func(b *testing.B) {
		benchParse(b, strings.Repeat("RETURN [a"+strings.Repeat(",a", 490)+"] ", 4))
	})
	b.Run("parse calls", func(b *testing.B) {
		benchParse(b, strings.Repeat("RETURN "+strings.Repeat("f(", 240)+"1"+strings.Repeat(")", 240)+" ", 4))
	})
	b.Run("parse long numbers", func(b *testing.B) {
		benchParse(b, "RETURN ["+strings.Repeat("0."+strings.Repeat("0", 320)+"5,", 100)+"1]")
	})
}

func benchParse(b *testing.B, text string) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := script.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(int64(b.N)*script.ParseFuel([]byte(text), newest)), "ns/unit")
}

// newest is above every feature level.
const newest = 1 << 30
