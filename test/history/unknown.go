package history

import (
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// An operation without an answer may have taken effect at any time after it was
// asked, or never. Tried everywhere, a few of them make the search endless. Yet
// whatever takes effect gets the next number (revision, token, value), and an
// operation with an answer names its own: so those without can only have got the
// numbers that are missing. Each kind of fact says when an operation without an
// answer may take effect; where it may not, the history judged is the same:
//
//   - a number that an answer names was given to that operation (a token: to its owner);
//   - a value that was read stands at the revision that was read with it;
//   - beyond the last number that any answer shows, nobody saw an effect.
//
// And an operation that takes no effect is like one that never happened, so it
// waits for the end of the order, when all answers are explained.
type facts interface {
	// effect says whether this change without an answer may take effect in this state.
	effect(state, input any) bool
}

// factsOf reads what the answers of one object say.
var factsOf = map[string]func([]porcupine.Operation) facts{
	kindKey:      keyFactsOf,
	kindLock:     lockFactsOf,
	kindSequence: sequenceFactsOf,
}

// ended is the question that stands after all answers.
type ended struct{}

// pruned is a state, and whether all answers are explained.
type pruned struct {
	state any
	ended bool
}

// withoutDetours is the model of a kind for one history, which judges as the model
// alone would, and the history with its mark of the end.
func withoutDetours(kind string, ops []porcupine.Operation) (porcupine.Model, []porcupine.Operation) {
	model, known := models[kind], factsOf[kind](ops)
	if kind == kindLock {
		ops = withoutStrangers(ops)
	}
	ops = append(ops[:len(ops):len(ops)], porcupine.Operation{Input: ended{}, Call: math.MaxInt64 - 1, Return: math.MaxInt64 - 1})
	return porcupine.Model{
		Init: func() any { return pruned{state: model.Init()} },
		Step: func(state, input, output any) (bool, any) {
			s := state.(pruned)
			if _, end := input.(ended); end {
				return true, pruned{s.state, true}
			}
			if output != nil {
				ok, next := model.Step(s.state, input, output)
				return ok, pruned{next, s.ended}
			}
			if s.ended {
				return true, s
			}
			_, next := model.Step(s.state, input, nil)
			return next != s.state && known.effect(s.state, input), pruned{next, false}
		},
	}, ops
}

type keyFacts struct {
	given map[int64]bool   // revisions that an answer says were made by its question
	found map[int64]string // values that were read, by revision
	at    map[string]int64 // the revision at which a value was read that was set once
	last  int64            // highest revision in any answer; -1: none
}

func keyFactsOf(ops []porcupine.Operation) facts {
	f := keyFacts{given: map[int64]bool{}, found: map[int64]string{}, at: map[string]int64{}, last: -1}
	sets := map[string]int{}
	for _, op := range ops {
		if in, set := op.Input.(keySet); set {
			sets[in.value]++
		}
		switch out := op.Output.(type) {
		case keySetAnswer:
			f.last = max(f.last, out.revision)
			if out.done {
				f.given[out.revision] = true
			}
		case keyGetAnswer:
			if out.found {
				f.last = max(f.last, out.revision)
				f.found[out.revision] = out.value
			}
		}
	}
	for revision, value := range f.found {
		if sets[value] == 1 {
			f.at[value] = revision
		}
	}
	return f
}

func (f keyFacts) effect(state, input any) bool {
	in, revision := input.(keySet), state.(keyState).revision+1
	found, read := f.found[revision]
	only, fixed := f.at[in.value]
	return revision <= f.last && !f.given[revision] && (!read || found == in.value) && (!fixed || only == revision)
}

// lockFacts are the owners to which an answer says that a token was given. There
// is no last token: Busy shows a holder without it.
type lockFacts map[int64]string

func lockFactsOf(ops []porcupine.Operation) facts {
	f := lockFacts{}
	for _, op := range ops {
		if out, try := op.Output.(lockTryAnswer); try && out.granted {
			f[out.token] = op.Input.(lockTry).owner
		}
	}
	return f
}

func (f lockFacts) effect(state, input any) bool {
	in, try := input.(lockTry)
	if !try {
		return true
	}
	// Who has a lock and tries again is told the token that it has.
	owner, given := f[state.(lockState).token+1]
	return !given || owner == in.owner
}

// withoutStrangers leaves out who gives back a lock that it never tried, and is told
// that it did not hold it: true in every state, so that a hundred of them at once
// only double the search a hundred times.
func withoutStrangers(ops []porcupine.Operation) []porcupine.Operation {
	tried := map[string]bool{}
	for _, op := range ops {
		if in, try := op.Input.(lockTry); try {
			tried[in.owner] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool {
		in, unlock := op.Input.(lockUnlock)
		return unlock && !tried[in.owner] && op.Output != (lockUnlockAnswer{true})
	})
}

type sequenceFacts struct {
	given map[int64]bool // values that an answer names
	last  int64          // the highest of them
}

func sequenceFactsOf(ops []porcupine.Operation) facts {
	f := sequenceFacts{given: map[int64]bool{}}
	for _, op := range ops {
		if out, got := op.Output.(sequenceAnswer); got {
			f.last = max(f.last, out.end)
			for n := out.start; n <= out.end; n++ {
				f.given[n] = true
			}
		}
	}
	return f
}

func (f sequenceFacts) effect(state, input any) bool {
	last := state.(int64)
	for n := last + 1; n <= last+input.(sequenceNext).count; n++ {
		if f.given[n] {
			return false
		}
	}
	return last < f.last
}
