package script

// walk looks at all of a program, in whichever branch it stands, in the order of
// running: a statement before what stands inside of it, an expression after its
// operands.
type walk struct {
	stmt func(s stmt, begins int) // begins is how many BEGINs it stands in
	expr func(x expr)
}

func (w walk) block(body []stmt, begins int) {
	for _, s := range body {
		w.stmt(s, begins)
		w.inside(s, begins)
	}
}

func (w walk) inside(s stmt, begins int) {
	switch s := s.(type) {
	case *setStmt:
		w.operands(s.value)
		for _, f := range s.flags {
			w.operands(f.x)
		}
	case *extendStmt:
		w.operands(s.ms)
	case *readStmt:
		w.operands(s.asOf)
	case *letStmt:
		w.operands(s.value)
	case *returnStmt:
		w.operands(s.value)
	case *throwStmt:
		w.operands(s.value)
	case *ifStmt:
		w.operands(s.cond)
		w.block(s.then, begins)
		w.block(s.else_, begins)
	case *forStmt:
		w.operands(s.over)
		w.block(s.body, begins)
	case *switchStmt:
		w.operands(s.subject)
		for _, c := range s.cases {
			w.operands(c.values...)
			w.block(c.body, begins)
		}
		w.block(s.else_, begins)
	case *beginStmt:
		w.block(s.body, begins+1)
	}
}

// operands looks at expressions; an absent one is nil.
func (w walk) operands(xs ...expr) {
	for _, x := range xs {
		if x == nil {
			continue
		}
		switch x := x.(type) {
		case *unary:
			w.operands(x.x)
		case *binary:
			w.operands(x.x, x.y)
		case *index:
			w.operands(x.x, x.i)
		case *call:
			w.operands(x.args...)
		case *arrayExpr:
			w.operands(x.elems...)
		case *command:
			w.operands(x.read.asOf)
		}
		w.expr(x)
	}
}
