package scripttest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Random makes up a script that reads and writes a few keys in all ways that
// there are, for comparing stores: what one answers, all must.
func Random(r *rand.Rand) string {
	g := random{r}
	var b strings.Builder
	for i := range 1 + r.IntN(6) {
		switch r.IntN(10) {
		case 0, 1, 2, 3:
			b.WriteString(g.write() + "\n")
		case 4:
			fmt.Fprintf(&b, "LET w%d = %s\n", i, g.write())
		case 5, 6:
			fmt.Fprintf(&b, "LET v%d = %s\n", i, g.read())
		case 7:
			fmt.Fprintf(&b, "IF (%s) = %s THEN %s ELSE %s END\n", g.get(), g.value(), g.write(), g.read())
		case 8:
			fmt.Fprintf(&b, "FOR x IN %s DO %s END\n", g.pick("1..2", "[5, 'a']", "GET BY BUCKET b", "EGET BY BUCKET b"), g.write())
		case 9:
			b.WriteString(g.read() + "\n")
		}
	}
	b.WriteString(g.pick("", "", "", "THROW 'undone'", "ROLLBACK",
		"LET s = SCAN BY PREFIX 'b' RETURN s", "LET s = ESCAN BY PREFIX 'b' RETURN s", "RETURN [rev("+g.get()+"), expires("+g.get()+")]"))
	return b.String()
}

type random struct{ r *rand.Rand }

func (g random) pick(options ...string) string { return options[g.r.IntN(len(options))] }

func (g random) key() string { return g.pick("a", "`b/1`", "'b/2'", "`b/2/x`", "bb") }

func (g random) table(verb string) string { return g.pick("", "E") + verb + " " + g.key() }

func (g random) value() string { return g.pick("1", "'two'", "null", "''", "2.5", "x0", "true") }

func (g random) get() string { return g.table("GET") }

func (g random) read() string {
	return g.pick(g.get(), g.get(), g.table("EXISTS"), "GET BY BUCKET b", "EGET BY BUCKET b", "SCAN BY PREFIX 'b/'",
		fmt.Sprintf("%s AT %d", g.get(), g.r.IntN(3)), fmt.Sprintf("%s AS OF %d", g.get(), StartMS+g.r.IntN(3000)),
		fmt.Sprintf("SCAN BY PREFIX b AS OF %d", StartMS+g.r.IntN(3000)))
}

func (g random) write() string {
	value := g.pick("1", "'two'", "null", "''", "2.5")
	switch g.r.IntN(5) {
	case 0:
		return g.table("DELETE")
	case 1:
		return fmt.Sprintf("%s %d", g.table("EXTEND"), g.r.IntN(300))
	}
	return g.table("SET") + " " + value + g.pick("", "", "", " NX", " XX", fmt.Sprintf(" EX %d", g.r.IntN(300)), " CMP 'two'", " CMP ''",
		fmt.Sprintf(" CMPREV %d", g.r.IntN(4)-1), " EX -1", fmt.Sprintf(" EX %d XX", 1+g.r.IntN(300)))
}
