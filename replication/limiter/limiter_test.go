package limiter_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication/limiter"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

func run(t interface{ Fatalf(string, ...any) }, m *scripttest.Memory, text string, params []limiter.Param) script.Result {
	var given []script.Param
	for _, p := range params {
		given = append(given, script.Param{Name: p.Name, Value: p.Value})
	}
	return m.Run(text, given)
}

type fataler interface{ Fatalf(string, ...any) }

func take(t fataler, m *scripttest.Memory, l limiter.Take) limiter.Answer {
	text, params, err := l.Script()
	if err != nil {
		t.Fatalf("%+v: %v", l, err)
	}
	res := run(t, m, text, params)
	if res.Type != script.TypeGet || len(res.Values) != 1 {
		t.Fatalf("%+v: %s", l, scripttest.Render(res, m.NowMS()))
	}
	a, err := limiter.Parse(res.Values[0].Value)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return a
}

// TestNeverTooMany takes at random times and counts: no algorithm gives more than
// it promises in any stretch of time, and what it says of waiting is true.
func TestNeverTooMany(t *testing.T) {
	for _, algorithm := range limiter.Algorithms {
		for _, persistent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", algorithm, persistent), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) { checkNeverTooMany(t, algorithm, persistent) })
			})
		}
	}
}

func checkNeverTooMany(t *rapid.T, algorithm limiter.Algorithm, persistent bool) {
	l := limiter.Take{Algorithm: algorithm, Key: "k", Persistent: persistent, Rate: limiter.Rate{
		Permits: rapid.Int64Range(1, 20).Draw(t, "limit"), PeriodMS: rapid.Int64Range(20, 3000).Draw(t, "period")}}
	m := scripttest.NewMemory()
	type grant struct{ at, permits int64 }
	var grants []grant
	for range 40 {
		m.Advance(rapid.Int64Range(0, l.Rate.PeriodMS/3).Draw(t, "pause"))
		l.Permits = rapid.Int64Range(0, l.Rate.Permits).Draw(t, "permits")
		a := take(t, m, l)
		if !a.Granted && a.RetryMS > 0 && rapid.Bool().Draw(t, "wait") {
			m.Advance(a.RetryMS - 1) // each script has a millisecond of its own
			if a = take(t, m, l); !a.Granted {
				t.Fatalf("refused again after the wait that was named: %+v", a)
			}
		}
		if a.Granted {
			grants = append(grants, grant{m.NowMS(), l.Permits})
		}
	}
	// In any stretch of a period: the budget, twice that for windows with fixed
	// bounds and for a bucket, which may have been full at its beginning.
	most := l.Rate.Permits
	if algorithm != limiter.Sliding {
		most *= 2
	}
	for i := range grants {
		sum := int64(0)
		for _, g := range grants[i:] {
			if g.at >= grants[i].at+l.Rate.PeriodMS*9/10 {
				break
			}
			sum += g.permits
		}
		if sum > most {
			t.Fatalf("%d permits in %d ms at %s", sum, l.Rate.PeriodMS, l.Rate)
		}
	}
}

// TestGivesAll checks that the whole budget can be had, and again a period later.
func TestGivesAll(t *testing.T) {
	for _, algorithm := range limiter.Algorithms {
		m := scripttest.NewMemory()
		m.Advance(400) // windows begin at whole seconds
		l := limiter.Take{Algorithm: algorithm, Key: "k", Rate: limiter.Rate{Permits: 3, PeriodMS: 10_000}, Permits: 1}
		for round := range 3 {
			for i := range int64(3) {
				if a := take(t, m, l); !a.Granted || a.Left != 2-i {
					t.Fatalf("%s, round %d: take %d: %+v", algorithm, round, i, a)
				}
			}
			look := l
			look.Permits = 0
			a, b := take(t, m, l), take(t, m, look)
			if a.Granted || b.Granted || a.RetryMS <= 0 || a.RetryMS > 10_000 || b.RetryMS >= a.RetryMS {
				t.Fatalf("%s, round %d: the fourth: %+v, then %+v", algorithm, round, a, b)
			}
			m.Advance(11_000)
		}
	}
}

// TestBucketRefills checks the even return of a token bucket.
func TestBucketRefills(t *testing.T) {
	m := scripttest.NewMemory()
	l := limiter.Take{Key: "k", Rate: limiter.Rate{Permits: 10, PeriodMS: 1000}, Permits: 10}
	if a := take(t, m, l); !a.Granted || a.Left != 0 {
		t.Fatalf("a full bucket: %+v", a)
	}
	l.Permits = 1
	if a := take(t, m, l); a.Granted || a.RetryMS != 99 {
		t.Fatalf("an empty bucket, 1 ms later: %+v", a)
	}
	m.Advance(249)
	if a := take(t, m, l); !a.Granted || a.Left != 1 {
		t.Fatalf("after a quarter of the period: %+v", a)
	}
}

// TestForeignState checks that a state of another algorithm is no error.
func TestForeignState(t *testing.T) {
	m := scripttest.NewMemory()
	for _, a := range limiter.Algorithms {
		for _, b := range limiter.Algorithms {
			l := limiter.Take{Algorithm: a, Key: string(a + b), Rate: limiter.Rate{Permits: 2, PeriodMS: 10_000}, Permits: 1}
			take(t, m, l)
			l.Algorithm = b
			take(t, m, l)
		}
	}
}

func TestLeases(t *testing.T) {
	m := scripttest.NewMemory()
	lease := func(id string) limiter.Lease {
		return limiter.Lease{Bucket: "jobs", ID: id, Limit: 3, Permits: 2, TTLMS: 1000}
	}
	do := func(text string, params []limiter.Param, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return scripttest.Render(run(t, m, text, params), m.NowMS())
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	expect(do(lease("a").Acquire()), "Get 1:1")
	expect(do(lease("b").Acquire()), "Get 0:999:2")
	expect(do(lease("b").Renew()), "NotSet jobs/b rev=-1")
	m.Advance(900)
	expect(do(lease("a").Renew()), "Set jobs/a rev=1")
	m.Advance(900)
	expect(do(lease("b").Acquire()), "Get 0:99:2")
	m.Advance(200)
	expect(do(lease("b").Acquire()), "Get 1:1")
	expect(do(lease("a").Renew()), "NotSet jobs/a rev=1")
	expect(do(lease("b").Release()), "Deleted jobs/b rev=1")
	expect(do(lease("b").Release()), "DoesNotExist jobs/b rev=1")
	expect(do(lease("c").Acquire()), "Get 1:1")
}

// TestLeaseOfOne: who asks again is not in its own way, and gets no more than the
// limit; a renewal changes no permits.
func TestLeaseOfOne(t *testing.T) {
	m := scripttest.NewMemory()
	acquire := func(id string, permits int64) limiter.LeaseAnswer {
		t.Helper()
		text, params, err := limiter.Lease{Bucket: "b", ID: id, Limit: 3, Permits: permits, TTLMS: 1000, Persistent: true}.Acquire()
		if err != nil {
			t.Fatal(err)
		}
		res := run(t, m, text, params)
		if len(res.Values) != 1 {
			t.Fatal(scripttest.Render(res, m.NowMS()))
		}
		a, err := limiter.ParseLease(res.Values[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	expect := func(what string, got, want limiter.LeaseAnswer) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
	}
	expect("a", acquire("a", 2), limiter.LeaseAnswer{Granted: true, Left: 1})
	expect("a again", acquire("a", 2), limiter.LeaseAnswer{Granted: true, Left: 1})
	expect("b", acquire("b", 1), limiter.LeaseAnswer{Granted: true})
	if got := acquire("a", 3); got.Granted || got.Held != 1 {
		t.Errorf("a grew beyond the limit: %+v", got)
	}
	renew, params, err := limiter.Lease{Bucket: "b", ID: "a", Limit: 9, Permits: 9, TTLMS: 1000, Persistent: true}.Renew()
	if err != nil {
		t.Fatal(err)
	}
	run(t, m, renew, params)
	if got := acquire("c", 1); got.Granted || got.Held != 3 {
		t.Errorf("after a renewal with other permits: %+v", got)
	}
	expect("a with less", acquire("a", 1), limiter.LeaseAnswer{Granted: true, Left: 1})
}

// TestMostLeases: a limit that nobody reaches has no more leases than one entry
// can count.
func TestMostLeases(t *testing.T) {
	m := scripttest.NewMemory()
	var text strings.Builder
	for i := range limiter.MaxLeases {
		fmt.Fprintf(&text, "ESET 'b/%d' 1 EX 1000000 NOREV\n", i)
	}
	run(t, m, text.String(), nil)
	for id, want := range map[string]string{"x": "Get 0:", "7": "Get 1:"} {
		text, params, err := limiter.Lease{Bucket: "b", ID: id, Limit: 1_000_000, Permits: 1, TTLMS: 1000}.Acquire()
		if err != nil {
			t.Fatal(err)
		}
		if got := scripttest.Render(run(t, m, text, params), m.NowMS()); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s…", id, got, want)
		}
	}
}

func TestLeaseProblems(t *testing.T) {
	good := limiter.Lease{Bucket: "b", ID: "a", Limit: 1, Permits: 1, TTLMS: 1}
	for what, change := range map[string]func(*limiter.Lease){
		"no name": func(l *limiter.Lease) { l.Bucket = "" }, "a slash": func(l *limiter.Lease) { l.Bucket = "b/" },
		"no id": func(l *limiter.Lease) { l.ID = "" }, "an id of another bucket": func(l *limiter.Lease) { l.ID = "a/b" },
		"a long id":  func(l *limiter.Lease) { l.ID = strings.Repeat("x", limiter.MaxLeaseIDBytes+1) },
		"no permits": func(l *limiter.Lease) { l.Permits = 0 }, "more than all": func(l *limiter.Lease) { l.Permits = 2 },
		"no end": func(l *limiter.Lease) { l.TTLMS = 0 }, "too far an end": func(l *limiter.Lease) { l.TTLMS = limiter.MaxPeriod + 1 },
		"too large": func(l *limiter.Lease) { l.Limit = limiter.MaxPermits + 1 },
	} {
		l := good
		change(&l)
		if _, _, err := l.Acquire(); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	for _, value := range []string{"", "0:", "0:1", "0:x:1", "0:1:-1", "0:-1:1", "1:x", "2:1:1", "0:1:1:1"} {
		if a, err := limiter.ParseLease([]byte(value)); err == nil {
			t.Errorf("%q was read as %+v", value, a)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]limiter.Rate{
		"100/1m": {Permits: 100, PeriodMS: 60_000}, "5/s": {Permits: 5, PeriodMS: 1000}, "1/250ms": {Permits: 1, PeriodMS: 250}, "7/2h": {Permits: 7, PeriodMS: 7_200_000}, "1/d": {Permits: 1, PeriodMS: 86_400_000},
	} {
		got, err := limiter.ParseRate(text)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if again, err := limiter.ParseRate(got.String()); err != nil || again != got {
			t.Errorf("%s printed as %s: %v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "5", "5/", "/s", "0/s", "-1/s", "5/0s", "5/x", "5/1w", "5/400d", "5/99999999999999999d", "9999999999/s", "5/1.5s", "5/s "} {
		if r, err := limiter.ParseRate(text); err == nil {
			t.Errorf("%q was read as %v", text, r)
		}
	}
}

func TestProblems(t *testing.T) {
	rate := limiter.Rate{Permits: 2, PeriodMS: 10}
	for _, l := range []limiter.Take{
		{Key: "", Rate: rate}, {Key: "k"}, {Key: "k", Rate: rate, Permits: -1}, {Key: "k", Rate: rate, Permits: 3}, {Key: "k", Rate: rate, Algorithm: "x"},
	} {
		if _, _, err := l.Script(); err == nil {
			t.Errorf("%+v was accepted", l)
		}
	}
	for _, value := range []string{"", "1", "2:5", "1:x", "1:-5", "true"} {
		if a, err := limiter.Parse([]byte(value)); err == nil {
			t.Errorf("%q was read as %+v", value, a)
		}
	}
}
