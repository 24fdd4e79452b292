// Package history records what clients of a cluster asked and were answered,
// and judges with porcupine whether one agent without faults could have given
// the same answers (linearizability).
//
// A Recorder is shared by all clients. Each operation names the object that it
// is about; objects are judged apart, each by the model of its kind: a key with
// revisions, a lock with fencing tokens, a sequence without gaps. An operation
// whose outcome nobody knows may have happened at any time after it was asked,
// or never; one that certainly did not happen is left out.
//
// Transactions over several objects are judged by CheckLists: histories of appends
// to lists and reads of them are searched for cycles, which a strictly serializable
// store does not show.
package history

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Recorder collects operations. Its methods may be called concurrently.
type Recorder struct {
	begin time.Time

	mu      sync.Mutex
	objects map[object][]porcupine.Operation
	open    map[*Pending]bool
	clients int
}

// object is what is judged on its own.
type object struct {
	kind, name string
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder {
	return &Recorder{begin: time.Now(), objects: map[object][]porcupine.Operation{}, open: map[*Pending]bool{}}
}

// A Pending is an operation that has been asked and not been answered.
type Pending struct {
	recorder *Recorder
	object   object
	op       porcupine.Operation
}

// ask records the question.
func (r *Recorder) ask(kind, name string, input any) *Pending {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients++
	p := &Pending{recorder: r, object: object{kind, name}, op: porcupine.Operation{
		ClientId: r.clients, // judged by time alone
		Input:    input,
		Call:     time.Since(r.begin).Nanoseconds(),
	}}
	r.open[p] = true
	return p
}

// end records the answer.
func (p *Pending) end(output any, returned int64) {
	p.op.Output, p.op.Return = output, returned
	p.recorder.mu.Lock()
	defer p.recorder.mu.Unlock()
	delete(p.recorder.open, p)
	p.recorder.objects[p.object] = append(p.recorder.objects[p.object], p.op)
}

func (p *Pending) answered(output any) { p.end(output, time.Since(p.recorder.begin).Nanoseconds()) }

// Unknown says that nobody knows whether it happened.
func (p *Pending) Unknown() { p.end(nil, math.MaxInt64) }

// Never says that it certainly did not happen.
func (p *Pending) Never() {
	p.recorder.mu.Lock()
	defer p.recorder.mu.Unlock()
	delete(p.recorder.open, p)
}

// InFlight is how many operations have been asked and not been answered.
func (r *Recorder) InFlight() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// Count is how many operations were recorded.
func (r *Recorder) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, ops := range r.objects {
		n += len(ops)
	}
	return n
}

// Check judges every object, for at most limit each. It returns a sentence for
// each that is wrong, or was not judged in time.
func (r *Recorder) Check(limit time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var wrong []string
	for o, ops := range r.objects {
		model, judged := withoutDetours(o.kind, ops)
		switch porcupine.CheckOperationsTimeout(model, judged, limit) {
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s %q: no order of its %d operations explains all answers%s", o.kind, o.name, len(ops), hint(o.kind, ops)))
		case porcupine.Unknown:
			wrong = append(wrong, fmt.Sprintf("%s %q: its %d operations could not be judged within %s", o.kind, o.name, len(ops), limit))
		}
	}
	return wrong
}
