package script

import "math"

// tolerance makes Doubles equal that differ by no more (scripts.md 54).
const tolerance = 0.001

func (r *run) binary(x *binary) (value, error) {
	a, err := r.eval(x.x)
	if err != nil {
		return null, err
	}
	if x.op == tokAnd || x.op == tokOr {
		return r.logic(x, &a)
	}
	b, err := r.eval(x.y)
	if err != nil {
		return null, err
	}
	line := x.line()
	if x.op != tokDoubleEquals && x.op != tokNotEquals { // equal does so itself
		if err := r.priceAsNumbers(&a, &b); err != nil {
			return null, err
		}
	}
	switch x.op {
	case tokAdd, tokMinus, tokMult, tokDiv:
		return arithmetic(line, x.op, &a, &b)
	case tokDoubleEquals:
		ok, err := r.equal(line, "==", &a, &b)
		return boolean(ok), err
	case tokNotEquals:
		ok, err := r.equal(line, "!=", &a, &b)
		return boolean(!ok), err
	case tokDoubleDot:
		return r.span(line, &a, &b)
	}
	return compare(line, x.op, &a, &b)
}

func invalidOperands(line int, op string, a, b *value) error {
	return failAt(line, "Invalid operands: %s %s %s", a.kind, op, b.kind)
}

// logic is && and ||. The right side is not looked at when the left one decides.
func (r *run) logic(x *binary, a *value) (value, error) {
	word := "and"
	if x.op == tokOr {
		word = "or"
	}
	left, okLeft := truth(a)
	if okLeft && left == (x.op == tokOr) {
		return boolean(left), nil
	}
	b, err := r.eval(x.y)
	if err != nil {
		return null, err
	}
	right, okRight := truth(&b)
	if !okLeft || !okRight || (a.kind == kindBool) != (b.kind == kindBool) {
		return null, invalidOperands(x.line(), word, a, &b)
	}
	return boolean(right), nil
}

// truth is what a Bool or number counts as in && and ||.
func truth(v *value) (b, ok bool) {
	switch v.kind {
	case kindBool, kindLong:
		return v.bits != 0, true
	case kindDouble:
		return v.float() != 0, true
	}
	return false, false
}

// not inverts: null and the empty text count as false, a number as false when it
// is 0 (decisions.md 45, 45a).
func not(line int, v *value) (value, error) {
	switch v.kind {
	case kindNull:
		return boolean(true), nil
	case kindBool, kindLong:
		return boolean(v.bits == 0), nil
	case kindDouble:
		return boolean(v.float() == 0), nil
	case kindString:
		return boolean(v.str == ""), nil
	}
	return null, failAt(line, "Invalid operands: not(%s)", v.kind)
}

func negate(line int, v *value) (value, error) {
	n := *v
	if v.kind == kindString {
		if view, ok := numeric(v.str); ok {
			n = view
		}
	}
	switch n.kind {
	case kindLong:
		return long(-n.bits), nil
	case kindDouble:
		return double(-n.float()), nil
	}
	return null, failAt(line, "Invalid operands: -(%s)", v.kind)
}

// numbers is the view of two operands as numbers: a text meets a number as one;
// two texts are none (scripts.md 52, 53).
func numbers(a, b *value) (x, y value, ok bool) {
	x, y = *a, *b
	switch {
	case a.isNumber() && b.isNumber():
		return x, y, true
	case a.kind == kindString && b.isNumber():
		x, ok = numeric(a.str)
	case a.isNumber() && b.kind == kindString:
		y, ok = numeric(b.str)
	}
	return x, y, ok
}

// priceAsNumbers charges for what numbers does.
func (r *run) priceAsNumbers(a, b *value) error {
	switch {
	case a.isNumber():
		return r.priceAsNumber(b)
	case b.isNumber():
		return r.priceAsNumber(a)
	}
	return nil
}

func arithmetic(line int, op tokenKind, a, b *value) (value, error) {
	x, y, ok := numbers(a, b)
	if !ok {
		return null, invalidOperands(line, symbols[op], a, b)
	}
	if x.kind == kindLong && y.kind == kindLong {
		switch op {
		case tokAdd:
			return long(x.bits + y.bits), nil
		case tokMinus:
			return long(x.bits - y.bits), nil
		case tokMult:
			return long(x.bits * y.bits), nil
		}
		switch {
		case y.bits == 0:
			return null, failAt(line, "Division by zero")
		case y.bits == -1 && x.bits == math.MinInt64:
			return null, failAt(line, "The quotient does not fit 64 bits")
		}
		return long(x.bits / y.bits), nil
	}
	f, g := x.asFloat(), y.asFloat()
	switch op {
	case tokAdd:
		return double(f + g), nil
	case tokMinus:
		return double(f - g), nil
	case tokMult:
		// The conversion keeps compilers from fusing it with an addition: voters
		// on different processors would differ in the last bit.
		return double(float64(f * g)), nil
	}
	return double(f / g), nil
}

// equal is = and ==; op is shown in the reason.
func (r *run) equal(line int, op string, a, b *value) (bool, error) {
	switch {
	case a.kind == kindNull || b.kind == kindNull:
		return a.kind == b.kind, nil
	case a.kind == kindBool && b.kind == kindBool:
		return a.bits == b.bits, nil
	case a.kind == kindString && b.kind == kindString:
		return a.str == b.str, r.burn(priceByte * int64(min(len(a.str), len(b.str))))
	}
	if err := r.priceAsNumbers(a, b); err != nil {
		return false, err
	}
	x, y, ok := numbers(a, b)
	switch {
	case !ok:
		// The reference shows == for texts that are no numbers, whatever was
		// written, unless a Double stands on the left.
		if (a.kind == kindString && b.isNumber()) || (a.kind == kindLong && b.kind == kindString) {
			op = "=="
		}
		return false, invalidOperands(line, op, a, b)
	case x.kind == kindLong && y.kind == kindLong:
		return x.bits == y.bits, nil
	}
	return math.Abs(x.asFloat()-y.asFloat()) <= tolerance, nil
}

// compare is < > <= >=. As in the reference <= is "not >" and >= is "not <".
func compare(line int, op tokenKind, a, b *value) (value, error) {
	x, y, ok := numbers(a, b)
	if !ok {
		return null, invalidOperands(line, symbols[op], a, b)
	}
	less, greater := false, false
	if x.kind == kindLong && y.kind == kindLong {
		less, greater = x.bits < y.bits, x.bits > y.bits
	} else {
		less, greater = x.asFloat() < y.asFloat(), x.asFloat() > y.asFloat()
	}
	switch op {
	case tokLess:
		return boolean(less), nil
	case tokGreater:
		return boolean(greater), nil
	case tokLessEquals:
		return boolean(!greater), nil
	}
	return boolean(!less), nil
}

// span is a..b: both ends included, empty when b < a (decisions.md 43).
func (r *run) span(line int, a, b *value) (value, error) {
	if a.kind != kindLong || b.kind != kindLong {
		return null, failAt(line, "Invalid operands for range operator: %s - %s", a.kind, b.kind)
	}
	if b.bits < a.bits {
		return list(nil), nil
	}
	n := uint64(b.bits) - uint64(a.bits)
	if n >= MaxArrayElements {
		return null, failAt(line, "A range holds at most %d elements", MaxArrayElements)
	}
	if err := r.burn(priceElement * int64(n+1)); err != nil {
		return null, err
	}
	elems := make([]value, n+1)
	for i := range elems {
		elems[i] = long(a.bits + int64(i))
	}
	return list(elems), nil
}
