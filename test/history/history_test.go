package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/history"
)

// Each history says what a fault would leave behind; a judge that lets one pass
// is worth nothing.
func TestJudgement(t *testing.T) {
	cases := []struct {
		name string
		run  func(r *history.Recorder)
		want string // part of the sentence; "" when the history is fine
	}{
		{"empty", func(*history.Recorder) {}, ""},
		{"sets and reads", func(r *history.Recorder) {
			r.Get("k").Missing()
			r.Set("k", "a").Done(0)
			r.Get("k").Found(0, "a")
			r.SetIf("k", "b", 0).Done(1)
			r.SetIf("k", "c", 0).Refused(1)
			r.Get("k").Found(1, "b")
		}, ""},
		{"lost write", func(r *history.Recorder) {
			r.Set("k", "a").Done(0)
			r.Get("k").Missing()
		}, "stale or a change was lost"},
		{"stale read", func(r *history.Recorder) {
			r.Set("k", "a").Done(0)
			r.Set("k", "b").Done(1)
			r.Get("k").Found(0, "a")
		}, "stale"},
		{"applied twice", func(r *history.Recorder) {
			r.Set("k", "a").Done(0)
			r.Set("k", "b").Done(2)
		}, "no order"},
		{"concurrent sets in either order", func(r *history.Recorder) {
			a, b := r.Set("k", "a"), r.Set("k", "b")
			b.Done(0)
			a.Done(1)
			r.Get("k").Found(1, "a")
		}, ""},
		{"unknown outcome that happened later", func(r *history.Recorder) {
			r.Set("k", "a").Unknown()
			r.Get("k").Missing()
			r.Get("k").Found(0, "a")
		}, ""},
		{"unknown outcome that never happened", func(r *history.Recorder) {
			r.Set("k", "a").Unknown()
			r.Set("k", "b").Done(0)
			r.Get("k").Found(0, "b")
		}, ""},
		{"refused and yet done", func(r *history.Recorder) {
			r.Set("k", "a").Never()
			r.Get("k").Found(0, "a")
		}, "no order"},
		{"tokens rise", func(r *history.Recorder) {
			r.Try("l", "x").Granted(0)
			r.Try("l", "y").Busy()
			r.Unlock("l", "x").Unlocked(true)
			r.Try("l", "y").Granted(1)
			r.Unlock("l", "x").Unlocked(false)
		}, ""},
		{"doubled holder", func(r *history.Recorder) {
			r.Try("l", "x").Granted(0)
			r.Try("l", "y").Granted(1)
		}, "no order"},
		{"token repeated", func(r *history.Recorder) {
			r.Try("l", "x").Granted(0)
			r.Unlock("l", "x").Unlocked(true)
			r.Try("l", "y").Granted(0)
		}, "0 was given out twice"},
		{"busy although free", func(r *history.Recorder) {
			r.Try("l", "x").Busy()
		}, "no order"},
		{"values in a row", func(r *history.Recorder) {
			a, b := r.Next("s", 1), r.Next("s", 10)
			b.Got(2, 11)
			a.Got(1, 1)
			r.Next("s", 1).Unknown()
			r.Next("s", 1).Got(13, 13)
		}, ""},
		{"value twice", func(r *history.Recorder) {
			r.Next("s", 1).Got(1, 1)
			r.Next("s", 1).Got(1, 1)
		}, "1 was given out twice"},
		{"gap", func(r *history.Recorder) {
			r.Next("s", 1).Got(1, 1)
			r.Next("s", 1).Got(3, 3)
		}, "no order"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := history.NewRecorder()
			c.run(r)
			got := strings.Join(r.Check(10*time.Second), "\n")
			if c.want == "" && got != "" {
				t.Errorf("the history is fine, but the judge says:\n%s", got)
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("the judge says %q, which does not contain %q", got, c.want)
			}
			if r.InFlight() != 0 {
				t.Errorf("%d operations left in flight", r.InFlight())
			}
		})
	}
}
