package history

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// At takes the place of the clock for operations that a test makes up.
func (p *Pending) At(call, returned int64) {
	p.recorder.mu.Lock()
	defer p.recorder.mu.Unlock()
	ops := p.recorder.objects[p.object]
	last := &ops[len(ops)-1]
	last.Call = call
	if last.Output != nil {
		last.Return = returned
	}
}

// Verdict is what porcupine says of all objects by their models alone, and what
// it says when operations without an answer are tried only where facts allow.
func (r *Recorder) Verdict(limit time.Duration) (plain, pruned porcupine.CheckResult) {
	plain, pruned = porcupine.Ok, porcupine.Ok
	for o, ops := range r.objects {
		if v := porcupine.CheckOperationsTimeout(models[o.kind], ops, limit); v != porcupine.Ok {
			plain = v
		}
		model, judged := withoutDetours(o.kind, ops)
		if v := porcupine.CheckOperationsTimeout(model, judged, limit); v != porcupine.Ok {
			pruned = v
		}
	}
	return plain, pruned
}
