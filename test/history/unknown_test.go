package history_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/test/history"
)

// happening is one operation of a made-up run: when it was asked, when it took
// effect, when the answer came, and whether it did.
type happening struct {
	call, effect, returned int64
	unknown                bool
}

// happenings are some that overlap, in the order of their effects. An effect
// without an answer may come long after it was asked, or never.
func happenings(t *rapid.T) []happening {
	var all []happening
	for i := range int64(rapid.IntRange(1, 8).Draw(t, "operations")) {
		h := happening{effect: 100 * (i + 1), unknown: rapid.IntRange(0, 2).Draw(t, "unknown") == 0}
		h.call = h.effect - rapid.Int64Range(1, 250).Draw(t, "asked before")
		h.returned = h.effect + rapid.Int64Range(1, 250).Draw(t, "answered after")
		if h.unknown && rapid.Bool().Draw(t, "never") {
			h.effect = math.MaxInt64
		} else if h.unknown {
			h.effect += rapid.Int64Range(0, 400).Draw(t, "late")
		}
		all = append(all, h)
	}
	slices.SortStableFunc(all, func(a, b happening) int {
		switch {
		case a.effect < b.effect:
			return -1
		case a.effect > b.effect:
			return 1
		}
		return 0
	})
	return all
}

// off is sometimes a number that makes an answer wrong.
func off(t *rapid.T) int64 {
	if rapid.IntRange(0, 11).Draw(t, "wrong") == 0 {
		return rapid.Int64Range(-2, 2).Draw(t, "by")
	}
	return 0
}

// What is left out of the search never changes the verdict, of histories as they
// happened and of such with a wrong answer.
func TestPrunedVerdictIsThatOfTheModel(t *testing.T) {
	kinds := map[string]func(*rapid.T, *history.Recorder){"key": keyRun, "lock": lockRun, "sequence": sequenceRun}
	for kind, run := range kinds {
		t.Run(kind, func(t *testing.T) {
			right, wrong := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				r := history.NewRecorder()
				run(t, r)
				plain, pruned := r.Verdict(20 * time.Second)
				if plain != pruned {
					t.Fatalf("the model says %s, without detours it is %s", plain, pruned)
				}
				if plain == porcupine.Ok {
					right++
				} else {
					wrong++
				}
			})
			if right == 0 || wrong == 0 {
				t.Errorf("%d possible and %d impossible histories: nothing was compared", right, wrong)
			}
		})
	}
}

func keyRun(t *rapid.T, r *history.Recorder) {
	revision, value := int64(-1), ""
	for i, h := range happenings(t) {
		never := h.effect == math.MaxInt64
		written := rapid.SampledFrom([]string{"same", fmt.Sprint(i)}).Draw(t, "value")
		switch expected := rapid.Int64Range(-1, 3).Draw(t, "expected"); rapid.IntRange(0, 2).Draw(t, "question") {
		case 0:
			if h.unknown {
				continue // an unanswered read is not recorded
			}
			p := r.Get("k")
			if revision == -1 {
				p.Missing()
			} else {
				p.Found(revision+off(t), value)
			}
			p.At(h.call, h.returned)
		case 1:
			p := r.Set("k", written)
			if !never {
				revision, value = revision+1, written
			}
			if h.unknown {
				p.Unknown()
			} else {
				p.Done(revision + off(t))
			}
			p.At(h.call, h.returned)
		case 2:
			p := r.SetIf("k", written, expected)
			matches := expected == revision && !never
			if matches {
				revision, value = revision+1, written
			}
			switch {
			case h.unknown:
				p.Unknown()
			case matches:
				p.Done(revision + off(t))
			default:
				p.Refused(revision + off(t))
			}
			p.At(h.call, h.returned)
		}
	}
}

func lockRun(t *rapid.T, r *history.Recorder) {
	token, owner := int64(-1), ""
	for _, h := range happenings(t) {
		never := h.effect == math.MaxInt64
		who := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "owner")
		if rapid.Bool().Draw(t, "unlock") {
			p := r.Unlock("l", who)
			owns := owner == who && !never
			if owns {
				owner = ""
			}
			if h.unknown {
				p.Unknown()
			} else {
				p.Unlocked(owns != (off(t) != 0))
			}
			p.At(h.call, h.returned)
			continue
		}
		p := r.Try("l", who)
		granted := owner == who
		if owner == "" && !never {
			token, owner, granted = token+1, who, true
		}
		switch {
		case h.unknown:
			p.Unknown()
		case granted != (off(t) != 0):
			p.Granted(token + off(t))
		default:
			p.Busy()
		}
		p.At(h.call, h.returned)
	}
}

func sequenceRun(t *rapid.T, r *history.Recorder) {
	last := int64(0)
	for _, h := range happenings(t) {
		count := rapid.Int64Range(1, 3).Draw(t, "count")
		p := r.Next("s", count)
		start := last + 1
		if h.effect != math.MaxInt64 {
			last += count
		}
		if h.unknown {
			p.Unknown()
		} else {
			start += off(t)
			p.Got(start, start+count-1)
		}
		p.At(h.call, h.returned)
	}
}

// Many changes without an answer were once judged for minutes: each might have
// happened anywhere, and every choice was tried before an early one was undone.
func TestManyUnknownOutcomesAreJudged(t *testing.T) {
	r := history.NewRecorder()
	// An unlock without an answer, and a hundred strangers before it took effect.
	r.Try("crowded", "x").Granted(0)
	r.Unlock("crowded", "x").Unknown()
	var strangers []*history.Pending
	for i := range 100 {
		strangers = append(strangers, r.Unlock("crowded", fmt.Sprint("stranger", i)))
	}
	for _, p := range strangers {
		p.Unlocked(false)
	}
	r.Try("crowded", "y").Busy()
	r.Unlock("crowded", "x").Unlocked(true)

	token, revision, value := int64(0), int64(0), int64(1)
	for i := range 40 {
		dead := fmt.Sprintf("dead%d", i)
		r.Try("l", dead).Unknown()
		for range 5 { // its agent is down: asked again and again
			r.Unlock("l", dead).Unknown()
		}
		r.Set("k", dead).Unknown()
		r.SetIf("k", dead+"'", revision).Unknown()
		r.Next("s", 1).Unknown()
		if i%2 == 0 { // it had happened
			r.Unlock("l", dead).Unlocked(true)
			r.Get("k").Found(revision, dead)
			token, revision, value = token+1, revision+1, value+1
		} else {
			r.Unlock("l", dead).Unlocked(false)
		}
		for j := range 10 {
			owner := fmt.Sprintf("%d.%d", i, j)
			try, other := r.Try("l", owner), r.Try("l", owner+"'")
			try.Granted(token)
			other.Busy()
			r.Unlock("l", owner).Unlocked(true)
			r.Set("k", owner).Done(revision)
			r.Next("s", 1).Got(value, value)
			token, revision, value = token+1, revision+1, value+1
		}
	}
	for _, sentence := range r.Check(20 * time.Second) {
		t.Error(sentence)
	}
}
