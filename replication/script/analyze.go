package script

import "math"

// Mode is how a script is to be run, chosen before anything is proposed
// (decisions.md 40). The caller runs what ErrFuelSpent ended as ModeSession.
type Mode uint8

const (
	// ModeDirect is one command on one key: it runs as the plain one.
	ModeDirect Mode = iota
	// ModeRead only reads, of the present, and does not ask for the time: one
	// consistent state is enough, and no log entry. What reads as of a time needs a
	// state that is past it (decisions.md 5), which an entry of its own is.
	ModeRead
	// ModeCommand runs in one log entry.
	ModeCommand
	// ModeSession sleeps, and runs as a session.
	ModeSession
)

// String names the mode.
func (m Mode) String() string {
	return [...]string{"direct", "read", "command", "session"}[m]
}

// Mode returns how the program is to be run.
func (p *Program) Mode() Mode {
	u := p.uses
	switch {
	case u.sleeps:
		return ModeSession
	case len(p.body) == 1 && isPlain(p.body[0]) && !u.clock && !u.nested:
		return ModeDirect
	case !u.writes && !u.clock && !u.asOf:
		return ModeRead
	}
	return ModeCommand
}

// isPlain reports whether a statement is one plain request.
func isPlain(s stmt) bool {
	if r, ok := s.(*readStmt); ok {
		return r.what == readGet || r.what == readExists
	}
	return isDirect(s)
}

// ReadsOnly reports whether the program writes nothing, whichever way it goes.
func (p *Program) ReadsOnly() bool { return !p.uses.writes }

// Lock is a lock that a pessimistic session takes before the first statement.
type Lock struct {
	Key
	Bucket bool // the whole bucket of this prefix, which comes without a slash
}

// Locks returns the locks of a pessimistic session, each once, in order of
// appearance: keys of SET, DELETE, EXTEND and GET, and buckets, of all branches;
// not of EXISTS, SCAN, AT and AS OF (scripts.md 23). The error is a reason for
// TypeErrored: a parameter that names a key is missing, or a key is empty.
func (p *Program) Locks(params []Param) ([]Lock, error) {
	r := &run{program: p, env: Env{Params: params}, fuel: math.MaxInt64}
	if err := r.start(); err != nil {
		return nil, err
	}
	l := locks{run: r, seen: make(map[Lock]bool)}
	walk{stmt: func(s stmt, _ int) { l.statement(s) }, expr: l.expr}.block(p.body, 0)
	return l.out, l.err
}

type locks struct {
	run  *run
	seen map[Lock]bool
	out  []Lock
	err  error
}

func (l *locks) statement(s stmt) {
	switch s := s.(type) {
	case *setStmt:
		l.add(Lock{Key: Key{Durability: s.durability}}, &s.key)
	case *deleteStmt:
		l.add(Lock{Key: Key{Durability: s.durability}}, &s.key)
	case *extendStmt:
		l.add(Lock{Key: Key{Durability: s.durability}}, &s.key)
	case *readStmt:
		l.read(s)
	}
}

// expr looks for reads in the place of operands.
func (l *locks) expr(x expr) {
	if c, ok := x.(*command); ok {
		l.read(c.read)
	}
}

func (l *locks) read(s *readStmt) {
	if s.asOf != nil || s.hasRevision {
		return
	}
	switch s.what {
	case readGet:
		l.add(Lock{Key: Key{Durability: s.durability}}, &s.key)
	case readBucket:
		l.add(Lock{Key: Key{Durability: s.durability}, Bucket: true}, &s.key)
	}
}

func (l *locks) add(lock Lock, key *keyName) {
	if l.err != nil {
		return
	}
	if lock.Name, l.err = l.run.key(key); l.err == nil && !l.seen[lock] {
		l.seen[lock] = true
		l.out = append(l.out, lock)
	}
}
