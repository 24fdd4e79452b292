package history

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// The kinds of objects.
const (
	kindKey      = "key"
	kindLock     = "lock"
	kindSequence = "sequence"
)

// models say for each kind which answer may follow in which state.
var models = map[string]porcupine.Model{
	kindKey:      {Init: func() any { return keyState{revision: -1} }, Step: stepKey},
	kindLock:     {Init: func() any { return lockState{token: -1} }, Step: stepLock},
	kindSequence: {Init: func() any { return int64(0) }, Step: stepSequence},
}

// ---- a key with revisions ----

type keyState struct {
	revision int64 // -1: never written
	value    string
}

type keySet struct {
	value      string
	conditions bool // only if the revision is expected
	expected   int64
}

type keySetAnswer struct {
	done     bool
	revision int64 // new, or the present one when refused
}

type keyGet struct{}

type keyGetAnswer struct {
	found    bool
	revision int64
	value    string
}

func stepKey(state, input, output any) (bool, any) {
	s := state.(keyState)
	switch in := input.(type) {
	case keyGet:
		out, known := output.(keyGetAnswer)
		if !known {
			return true, s
		}
		if !out.found {
			return s.revision == -1, s
		}
		return out.revision == s.revision && out.value == s.value, s
	case keySet:
		out, known := output.(keySetAnswer)
		matches := !in.conditions || in.expected == s.revision
		next := keyState{s.revision + 1, in.value}
		switch {
		case !known && matches:
			return true, next
		case !known:
			return true, s
		case out.done:
			return matches && out.revision == next.revision, next
		}
		return !matches && out.revision == s.revision, s
	}
	panic(fmt.Sprintf("unknown question about a key: %T", input))
}

// Set records that a key is being set.
func (r *Recorder) Set(key, value string) *Pending {
	return r.ask(kindKey, key, keySet{value: value})
}

// SetIf records that a key is being set if its revision is expected.
func (r *Recorder) SetIf(key, value string, expected int64) *Pending {
	return r.ask(kindKey, key, keySet{value: value, conditions: true, expected: expected})
}

// Done answers Set and SetIf.
func (p *Pending) Done(revision int64) { p.answered(keySetAnswer{true, revision}) }

// Refused answers SetIf when the condition did not hold.
func (p *Pending) Refused(revision int64) { p.answered(keySetAnswer{false, revision}) }

// Get records that a key is being read.
func (r *Recorder) Get(key string) *Pending { return r.ask(kindKey, key, keyGet{}) }

// Found answers Get.
func (p *Pending) Found(revision int64, value string) {
	p.answered(keyGetAnswer{true, revision, value})
}

// Missing answers Get.
func (p *Pending) Missing() { p.answered(keyGetAnswer{}) }

// ---- a lock with fencing tokens, whose leases are longer than the test ----

type lockState struct {
	token int64 // highest given; -1: none
	owner string
}

type lockTry struct{ owner string }

type lockTryAnswer struct {
	granted bool
	token   int64
}

type lockUnlock struct{ owner string }

type lockUnlockAnswer struct{ done bool }

func stepLock(state, input, output any) (bool, any) {
	s := state.(lockState)
	switch in := input.(type) {
	case lockTry:
		out, known := output.(lockTryAnswer)
		free := s.owner == ""
		next := lockState{s.token + 1, in.owner}
		switch {
		case !known && free:
			return true, next
		case !known:
			return true, s
		case !out.granted:
			return !free && s.owner != in.owner, s
		case s.owner == in.owner:
			return out.token == s.token, s // taken again by its owner: the same token
		}
		return free && out.token == next.token, next
	case lockUnlock:
		out, known := output.(lockUnlockAnswer)
		owns := s.owner == in.owner
		next := s
		if owns {
			next.owner = ""
		}
		return !known || out.done == owns, next
	}
	panic(fmt.Sprintf("unknown question about a lock: %T", input))
}

// Try records that a lock is being tried.
func (r *Recorder) Try(lock, owner string) *Pending { return r.ask(kindLock, lock, lockTry{owner}) }

// Granted answers Try.
func (p *Pending) Granted(token int64) { p.answered(lockTryAnswer{true, token}) }

// Busy answers Try.
func (p *Pending) Busy() { p.answered(lockTryAnswer{}) }

// Unlock records that a lock is being given back.
func (r *Recorder) Unlock(lock, owner string) *Pending {
	return r.ask(kindLock, lock, lockUnlock{owner})
}

// Unlocked answers Unlock; done is false when the owner did not hold it.
func (p *Pending) Unlocked(done bool) { p.answered(lockUnlockAnswer{done}) }

// ---- a sequence from 1 in steps of 1 ----

type sequenceNext struct{ count int64 }

type sequenceAnswer struct{ start, end int64 }

func stepSequence(state, input, output any) (bool, any) {
	last := state.(int64)
	in := input.(sequenceNext)
	out, known := output.(sequenceAnswer)
	if !known {
		return true, last + in.count
	}
	return out.start == last+1 && out.end == last+in.count, last + in.count
}

// Next records that the next count values are being taken.
func (r *Recorder) Next(sequence string, count int64) *Pending {
	return r.ask(kindSequence, sequence, sequenceNext{count})
}

// Got answers Next.
func (p *Pending) Got(start, end int64) { p.answered(sequenceAnswer{start, end}) }
