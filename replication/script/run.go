package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Env is what a run gets besides the store.
type Env struct {
	// Params are the parameters; those that the script does not name are ignored.
	Params []Param
	// Fuel is what the run may spend, see EntryFuel.
	Fuel int64
	// Level is the feature level whose prices count. 0 is the newest: for runs that
	// nobody has to repeat.
	Level uint32
	// Refill is asked when the fuel is spent: nil fills it up again, an error ends
	// the run with that error. Without Refill the run ends with ErrFuelSpent.
	Refill func() error
	// Sleep is what SLEEP calls; an error ends the run with that error. Without it
	// a SLEEP ends the run with ErrFuelSpent: the script needs a session.
	Sleep func(ms int64) error
}

// Run carries out the program. The answer depends on nothing but the program,
// env and what the store says; Result.Fuel is set with an error, too. Errors are ErrFuelSpent and what the store, Refill
// or Sleep returned: then nothing may take effect. Everything that is wrong with
// the script itself is in the Result.
func (p *Program) Run(s Store, env Env) (Result, error) {
	var e Evaluator
	return e.Run(p, s, env)
}

// An Evaluator runs one program after the other and keeps what memory they need.
// What it ran before makes no difference.
type Evaluator struct{ run run }

// Run is p.Run.
func (e *Evaluator) Run(p *Program, s Store, env Env) (Result, error) {
	r := &e.run
	*r = run{program: p, store: s, env: env, fuel: env.Fuel}
	err := r.start()
	if err == nil {
		err = r.all()
	}
	res, err := r.conclude(err)
	res.Fuel = r.refilled + env.Fuel - max(r.fuel, 0)
	*r = run{} // nothing is held on to
	return res, err
}

// conclude makes an answer of how the run ended.
func (r *run) conclude(err error) (Result, error) {
	if err == nil {
		var res Result
		if res, err = r.finish(); err == nil {
			return res, nil
		}
	}
	var broken *scriptError
	var aborted *AbortError
	var bad *badKey
	switch {
	case errors.As(err, &bad):
		return bad.result(r.direct), nil
	case errors.As(err, &broken):
		return Result{Type: TypeErrored, Reason: broken.Error()}, nil
	case errors.As(err, &aborted):
		if aborted.MustRetry {
			return Result{Type: TypeMustRetry, Reason: aborted.Reason}, nil
		}
		return Result{Type: TypeAborted, Reason: aborted.Reason}, nil
	}
	return Result{}, err
}

// ParseResult is the answer to a text that is no script.
func ParseResult(err error) Result {
	return Result{Type: TypeErrored, Reason: err.Error()}
}

const (
	reasonAborted  = "Transaction aborted"
	reasonSnapshot = "writes are not allowed in a snapshot (AS OF) transaction"
)

// run is one run of a program.
type run struct {
	program *Program
	store   Store
	env     Env
	fuel    int64
	// refilled is what was spent before the last refill.
	refilled int64

	vars     []variableValue
	params   []paramValue
	stack    []value // arguments of calls
	varBytes int64
	written  int64

	direct     bool  // the script is one command, without a transaction
	snapshotMS int64 // of BEGIN (snapshot=…)
	stopped    bool
	commit     bool

	// The result of the last statement that gave one: made by it, or a value that
	// becomes one when the script has ended.
	last       Result
	lastOne    ResultValue // the only value of last, if lastHasOne
	lastValue  value
	lastLine   int // of the statement that gave lastValue, 0: it is last
	hasLast    bool
	lastHasOne bool

	modified Type // of the last SET, DELETE or EXTEND; hasModified
	deleted  Type
	extended Type
	did      [guardExtended + 1]bool

	// Room for small scripts, so that they need none of their own.
	varsRoom   [6]variableValue
	paramsRoom [4]paramValue
	stackRoom  [3]value
}

type variableValue struct {
	value
	assigned bool
}

type paramValue struct {
	text    string
	missing bool
}

// start binds the parameters and prices the text.
func (r *run) start() error {
	if len(r.env.Params) > MaxParams {
		return failAt(1, "The script has more than %d parameters", MaxParams)
	}
	p := r.program
	r.stack = r.stackRoom[:0]
	if r.vars = r.varsRoom[:]; len(p.slots) > len(r.varsRoom) {
		r.vars = make([]variableValue, len(p.slots))
	}
	if r.params = r.paramsRoom[:]; len(p.params) > len(r.paramsRoom) {
		r.params = make([]paramValue, len(p.params))
	}
	bytes := int64(0)
	for i := range r.env.Params {
		bytes += int64(len(r.env.Params[i].Name) + len(r.env.Params[i].Value))
	}
	level := r.env.Level
	if r.dearer() {
		level = dearerLevel
	}
	err := r.burn(p.ParseFuel(level) + priceByte*bytes + priceNode*int64(len(p.params)*min(len(r.env.Params), 100)))
	if err == nil {
		r.bindParams()
	}
	return err
}

// bindParams finds what the parameters of the program are.
func (r *run) bindParams() {
	given := r.env.Params
	var index map[string]int // worth its while for many
	if len(given) > 100 {
		index = make(map[string]int, len(given))
		for i := len(given) - 1; i >= 0; i-- { // the first of a name counts
			index[given[i].Name] = i
		}
	}
	for i, name := range r.program.params {
		at, ok := 0, false
		if index != nil {
			at, ok = index[name]
		} else {
			at = slices.IndexFunc(given, func(p Param) bool { return p.Name == name })
			ok = at >= 0
		}
		r.params[i] = paramValue{missing: !ok}
		if ok {
			r.params[i].text = given[at].Value
		}
	}
}

// all runs the script in its way: one command, one BEGIN block, or statements
// that commit at the end (scripts.md 17 to 21).
func (r *run) all() error {
	body := r.program.body
	r.commit = true
	if len(body) == 1 {
		switch s := body[0].(type) {
		case commitStmt, rollbackStmt:
			return failAt(s.line(), "Invalid transaction")
		case *beginStmt:
			o, err := beginOptions(s)
			if err != nil {
				return err
			}
			r.commit, r.snapshotMS = o.AutoCommit, o.SnapshotMS
			if o.TimeoutMS == 0 {
				return &AbortError{Reason: ReasonTimeout}
			}
			return r.block(s.body)
		}
		r.direct = isDirect(body[0])
	}
	return r.block(body)
}

func isDirect(s stmt) bool {
	switch s.(type) {
	case *setStmt, *deleteStmt, *extendStmt, *readStmt:
		return true
	}
	return false
}

// finish makes the answer of a run that came to its end.
func (r *run) finish() (Result, error) {
	switch {
	case !r.commit:
		return Result{Type: TypeAborted, Reason: reasonAborted}, nil
	case !r.hasLast:
		// Committed without a result (decisions.md 44).
		return Result{Type: TypeGet, Commit: true}, nil
	case r.lastLine > 0:
		if err := r.render(); err != nil {
			return Result{}, err
		}
	case r.lastHasOne:
		r.last.Values = []ResultValue{r.lastOne}
	default:
		size := 0
		for i := range r.last.Values {
			size += len(r.last.Values[i].Key) + len(r.last.Values[i].Value)
		}
		if size > MaxResultBytes {
			last := r.program.body[len(r.program.body)-1]
			return Result{}, failAt(last.line(), "The result is larger than %d bytes: read a range in pages instead", MaxResultBytes)
		}
	}
	r.last.Commit = true
	return r.last, nil
}

// render makes the last value the result. An array gives a value for each element.
func (r *run) render() error {
	elems := append(r.stack[:0], r.lastValue)
	if r.lastValue.kind == kindArray {
		elems = r.lastValue.array.elems
	}
	res := Result{Type: TypeGet, Values: make([]ResultValue, len(elems))}
	size := int64(0)
	for i := range elems {
		b, ok := elems[i].bytes()
		if !ok {
			return failAt(r.lastLine, "An array inside an array cannot be a result")
		}
		if size += int64(len(b)); size > MaxResultBytes {
			return failAt(r.lastLine, "The result is larger than %d bytes", MaxResultBytes)
		}
		res.Values[i] = ResultValue{Value: b, Revision: elems[i].rev, ExpiresAtMS: elems[i].expires}
	}
	r.last = res
	return r.burn(priceElement*int64(len(elems)) + priceByte*size)
}

// give makes v the result of the statement.
func (r *run) give(line int, v value) {
	r.lastValue, r.lastLine, r.hasLast = v, line, true
}

// take makes the outcome of a command the result of the statement.
func (r *run) take(o outcome) {
	r.last, r.lastOne = Result{Type: o.kind, Values: o.rows}, o.one
	r.lastLine, r.hasLast, r.lastHasOne = 0, true, o.hasOne
}

// outcome is what a command came to: one value, or rows.
type outcome struct {
	kind   Type
	one    ResultValue
	hasOne bool
	rows   []ResultValue
}

func (r *run) block(body []stmt) error {
	for _, s := range body {
		if r.stopped {
			return nil
		}
		if err := r.burn(priceStatement); err != nil {
			return err
		}
		if err := r.statement(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) statement(s stmt) error {
	switch s := s.(type) {
	case *letStmt:
		v, err := r.eval(s.value)
		if err != nil {
			return err
		}
		if err := r.assign(s.bind, v); err != nil {
			return err
		}
		r.give(s.line(), v)
		return nil
	case *setStmt:
		return r.set(s)
	case *deleteStmt:
		return r.delete(s)
	case *extendStmt:
		return r.extend(s)
	case *readStmt:
		v, res, err := r.read(s, true)
		if err != nil {
			return err
		}
		r.take(res)
		if s.bind != nil {
			return r.assign(s.bind, v)
		}
		return nil
	case *ifStmt:
		v, err := r.eval(s.cond)
		if err != nil {
			return err
		}
		if v.kind == kindBool && v.isTrue() {
			return r.block(s.then)
		}
		return r.block(s.else_)
	case *forStmt:
		return r.loop(s)
	case *switchStmt:
		return r.choose(s)
	case *returnStmt:
		r.stopped = true
		if s.value == nil {
			return nil
		}
		v, err := r.eval(s.value)
		if err != nil {
			return err
		}
		r.give(s.line(), v)
		return nil
	case *throwStmt:
		return r.throw(s)
	case *sleepStmt:
		return r.sleep(s)
	case commitStmt:
		r.stopped, r.commit = true, true
		return nil
	case rollbackStmt:
		r.stopped, r.commit = true, false
		return nil
	case *beginStmt:
		return failAt(s.line(), "Nested transactions are not supported")
	}
	panic(fmt.Sprintf("script: cannot carry out the statement %T", s))
}

func (r *run) assign(b binding, v value) error {
	to := &r.vars[b.slot]
	r.varBytes += v.size() - to.size()
	if r.varBytes > MaxVariableBytes {
		return failAt(b.line(), "The variables hold more than %d bytes", MaxVariableBytes)
	}
	to.value, to.assigned = v, true
	return nil
}

func (r *run) loop(s *forStmt) error {
	over, err := r.eval(s.over)
	if err != nil {
		return err
	}
	if over.kind != kindArray {
		return failAt(s.line(), "FOR expression is not iterable")
	}
	for _, v := range over.array.elems {
		if r.stopped {
			return nil
		}
		if err := r.burn(priceElement); err != nil {
			return err
		}
		if err := r.assign(s.bind, v); err != nil {
			return err
		}
		if err := r.block(s.body); err != nil {
			return err
		}
	}
	return nil
}

// choose runs the first case with a value that equals the subject.
func (r *run) choose(s *switchStmt) error {
	subject, err := r.eval(s.subject)
	if err != nil {
		return err
	}
	for _, c := range s.cases {
		for _, x := range c.values {
			v, err := r.eval(x)
			if err != nil {
				return err
			}
			equal, err := r.equal(s.line(), "==", &subject, &v)
			if err != nil {
				return err
			}
			if equal {
				return r.block(c.body)
			}
		}
	}
	return r.block(s.else_)
}

func (r *run) throw(s *throwStmt) error {
	v, err := r.eval(s.value)
	if err != nil {
		return err
	}
	if v.kind == kindNull {
		return failAt(s.line(), "(null)")
	}
	message, ok := v.render()
	if !ok {
		return failAt(s.line(), "Cannot convert array to bytes")
	}
	if len(message) > MaxReasonBytes {
		message = strings.ToValidUTF8(message[:MaxReasonBytes], "")
	}
	return failAt(s.line(), "%s", message)
}

func (r *run) sleep(s *sleepStmt) error {
	if s.ms < 0 || s.ms > MaxSleepMS {
		return failAt(s.line(), "Invalid SLEEP duration %d", s.ms)
	}
	if r.env.Sleep == nil {
		return ErrFuelSpent
	}
	return r.env.Sleep(s.ms)
}
