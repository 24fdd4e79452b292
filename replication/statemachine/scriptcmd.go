package statemachine

import (
	"errors"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// scriptCacheBytes bounds the parsed scripts that a machine remembers.
const scriptCacheBytes = 8 << 20

// script evaluates a script as one command: all of it or nothing.
func (m *Machine) script(c *command, op *replication.Script) {
	if m.busy(c) {
		return
	}
	s := m.newScriptStore(c, op.GetYield())
	res, ok := m.runScript(c, s, op, &m.work)
	if ok && res.Commit {
		s.apply()
	}
	*s = scriptStore{} // nothing is held on to
}

// script evaluates a script that only reads.
func (v *view) script(c *command, op *replication.Script) {
	s := &scriptStore{v: v, label: v.label}
	m := &Machine{} // no more than the cache of programs, which is not shared with apply
	var work int64
	m.runScript(c, s, op, &work)
}

// runScript evaluates op over s, and answers c. ok is false when nothing may
// take effect.
func (m *Machine) runScript(c *command, s *scriptStore, op *replication.Script, work *int64) (res script.Result, ok bool) {
	fuel := int64(script.EntryFuel)
	if op.GetFuel() > 0 && op.Fuel < uint64(fuel) {
		fuel = int64(op.Fuel)
	}
	if script.ParseFuel(op.GetText()) > fuel { // before it is parsed, which would take that long
		c.refuse(replication.Code_CODE_FUEL_SPENT, "the script needs a session")
		return res, false
	}
	program, err := m.parseScript(op.GetText())
	if err != nil {
		*work += script.ParseFuel(op.GetText())
		answerScript(c, script.ParseResult(err))
		return res, false
	}
	res, err = m.evaluator.Run(program, s, script.Env{Params: script.ParamsOf(op), Fuel: fuel})
	*work += res.Fuel // a unit is about a nanosecond
	switch {
	case err == nil:
		answerScript(c, res)
		return res, true
	case errors.Is(err, errScriptLocked):
		answerScript(c, script.Result{Type: script.TypeAborted, Reason: script.LockRefused(s.locked)})
		c.refuse(replication.Code_CODE_LOCKED, "a key that the script writes is locked by transaction %d", s.holder.id.ms)
	case errors.Is(err, script.ErrFuelSpent):
		c.refuse(replication.Code_CODE_FUEL_SPENT, "the script needs a session")
	default:
		c.invalid(err.Error())
	}
	return res, false
}

func (m *Machine) parseScript(text []byte) (*script.Program, error) {
	if m.scripts == nil {
		m.scripts = script.NewCache(scriptCacheBytes)
	}
	return m.scripts.Parse(text)
}

func answerScript(c *command, res script.Result) {
	c.answer.Result = &replication.Answer_ScriptResult{ScriptResult: res.Message()}
}
