package script

import "fmt"

// eval computes an expression. Operands are evaluated from left to right.
func (r *run) eval(x expr) (value, error) {
	if err := r.burn(priceNode); err != nil {
		return null, err
	}
	switch x := x.(type) {
	case *literal:
		return x.value, nil
	case *variable:
		if !r.vars[x.slot].assigned {
			return null, failAt(x.line(), "Undefined variable: %s", x.name)
		}
		return r.vars[x.slot].value, nil
	case *placeholder:
		if r.params[x.index].missing {
			return null, failAt(x.line(), "Undefined parameter: %s", x.name)
		}
		return text(r.params[x.index].text), nil
	case *binary:
		return r.binary(x)
	case *unary:
		v, err := r.eval(x.x)
		if err != nil {
			return null, err
		}
		if x.op == tokNot {
			return not(x.line(), &v)
		}
		if err := r.priceAsNumber(&v); err != nil {
			return null, err
		}
		return negate(x.line(), &v)
	case *index:
		return r.index(x)
	case *call:
		return r.call(x)
	case *arrayExpr:
		return r.array(x)
	case *guard:
		return r.guard(x)
	case *command:
		v, _, err := r.read(x.read, false)
		return v, err
	}
	panic(fmt.Sprintf("script: cannot evaluate the expression %T", x))
}

func (r *run) array(x *arrayExpr) (value, error) {
	if len(x.elems) > MaxArrayElements {
		return null, failAt(x.line(), "An array holds at most %d elements", MaxArrayElements)
	}
	elems := make([]value, len(x.elems))
	for i, e := range x.elems {
		var err error
		if elems[i], err = r.eval(e); err != nil {
			return null, err
		}
	}
	return r.made(x.line(), list(elems))
}

// made checks the size of a new text or array, and charges for it.
func (r *run) made(line int, v value) (value, error) {
	size := v.size()
	if size > MaxValueBytes {
		return null, failAt(line, "A value is larger than %d bytes", MaxValueBytes)
	}
	price := priceByte * size
	if v.array != nil {
		price = priceElement * int64(len(v.array.elems))
	}
	return v, r.burn(price)
}

// guard answers NOT FOUND and its like: true unless the remembered result is the
// one named (scripts.md 58, 59).
func (r *run) guard(x *guard) (value, error) {
	if x.what == guardFound {
		return boolean(!r.hasLast || r.lastLine == 0 && r.last.Type != TypeGet), nil
	}
	if !r.did[x.what] {
		return null, failAt(x.line(), "Invalid NOT %s expression", guardWords[x.what])
	}
	switch x.what {
	case guardDeleted:
		return boolean(r.deleted != TypeDeleted), nil
	case guardExtended:
		return boolean(r.extended != TypeExtended), nil
	}
	return boolean(r.modified != TypeSet), nil
}

func (r *run) index(x *index) (value, error) {
	v, err := r.eval(x.x)
	if err != nil {
		return null, err
	}
	i, err := r.eval(x.i)
	if err != nil {
		return null, err
	}
	if v.kind != kindArray {
		return null, failAt(x.line(), "Expression to index must be an array: Found: %s", v.kind)
	}
	if err := r.priceAsNumber(&i); err != nil {
		return null, err
	}
	n, ok := wholeNumber(&i)
	if !ok || n < 0 || n >= int64(len(v.array.elems)) {
		shown, _ := i.render()
		return null, failAt(x.line(), "Index must be integer and positive and less than size of array. Found: %s Value: %.100s", i.kind, shown)
	}
	return v.array.elems[n], nil
}

// wholeNumber is a Long, or a Double or text that is one.
func wholeNumber(v *value) (int64, bool) {
	n := *v
	if v.kind == kindString {
		var ok bool
		if n, ok = numeric(v.str); !ok {
			return 0, false
		}
	}
	if n.kind == kindDouble {
		f := truncate(n.float())
		return f, float64(f) == n.float()
	}
	return n.bits, n.kind == kindLong
}

func (r *run) call(x *call) (value, error) {
	base := len(r.stack)
	defer func() { r.stack = r.stack[:base] }()
	for _, a := range x.args {
		v, err := r.eval(a)
		if err != nil {
			return null, err
		}
		r.stack = append(r.stack, v)
	}
	args := r.stack[base:] // functions do not keep it
	switch {
	case x.fn == nil:
		return null, failAt(x.line(), "Undefined function %s expression", x.name)
	case len(args) < x.fn.min || len(args) > x.fn.max:
		return null, failAt(x.line(), "Invalid number of arguments for '%s' function", x.fn.name)
	}
	size := int64(0)
	for i := range args {
		size += int64(len(args[i].str))
	}
	if err := r.burn(priceByte * size); err != nil {
		return null, err
	}
	return x.fn.apply(r, x.line(), args)
}
