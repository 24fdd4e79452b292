package statemachine

import (
	"errors"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
)

// scriptCacheBytes bounds the parsed scripts that a machine remembers.
const scriptCacheBytes = 8 << 20

// evaluator parses and runs scripts. What it remembers changes no outcome.
type evaluator struct {
	cache *script.Cache // nil: nothing is remembered
	run   script.Evaluator
}

// parse gives the program of a text and what parsing it costs, remembered or not:
// both are nil when that is more than fuel, and nothing is parsed then, which would
// take that long.
func (e *evaluator) parse(text []byte, fuel int64, level uint32) (p *script.Program, price int64, err error) {
	if e.cache != nil {
		p = e.cache.Get(text)
	}
	if p != nil {
		price = p.ParseFuel(level)
	} else {
		price = script.ParseFuel(text, level)
	}
	switch {
	case price > fuel:
		return nil, price, nil
	case p != nil:
		return p, price, nil
	case e.cache == nil:
		p, err = script.Parse(string(text))
	default:
		p, err = e.cache.Parse(text)
	}
	return p, price, err
}

// script evaluates a script as one command: all of it or nothing.
func (m *Machine) script(c *command, op *replication.Script) {
	if m.busy(c) {
		return
	}
	s := m.newScriptStore(c, op.GetYield())
	res, ok := m.scripts.answer(c, s, op, &m.work)
	if ok && res.Commit {
		s.apply()
		if len(s.writes) > 0 && s.label != c.label {
			c.label = s.label
			c.label.fill(c.answer.Time)
		}
	}
	if ok {
		m.advance(s.ahead)
	}
	*s = scriptStore{} // nothing is held on to
}

// script evaluates a script that only reads.
func (v *view) script(c *command, op *replication.Script) {
	var e evaluator // many reads run at once, and share nothing
	var work int64
	e.answer(c, &scriptStore{v: v, now: v.label, label: v.label}, op, &work)
}

// answer evaluates op over s, and answers c. ok is false when nothing may take
// effect.
func (e *evaluator) answer(c *command, s *scriptStore, op *replication.Script, work *int64) (res script.Result, ok bool) {
	fuel := int64(script.EntryFuel)
	if op.GetFuel() > 0 && op.Fuel < uint64(fuel) {
		fuel = int64(op.Fuel)
	}
	program, price, err := e.parse(op.GetText(), fuel, s.v.level)
	switch {
	case err != nil:
		*work += price
		answerScript(c, script.ParseResult(err))
		return res, false
	case program == nil:
		c.refuse(replication.Code_CODE_FUEL_SPENT, "the script needs a session")
		return res, false
	}
	for spent := int64(0); ; spent = res.Fuel {
		res, err = e.run.Run(program, s, script.Env{Params: script.ParamsOf(op), Fuel: fuel - spent, Level: s.v.level})
		res.Fuel += spent
		if err != nil || !res.Commit || !s.relabelled() {
			break
		}
	}
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

func answerScript(c *command, res script.Result) {
	c.answer.Result = &replication.Answer_ScriptResult{ScriptResult: res.Message()}
}
