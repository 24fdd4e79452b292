package script

import (
	"reflect"
)

// SameTree reports whether two programs have the same tree, lines apart.
func SameTree(a, b *Program) bool {
	return reflect.DeepEqual(a.slots, b.slots) && reflect.DeepEqual(a.params, b.params) && a.uses == b.uses &&
		same(reflect.ValueOf(a.body), reflect.ValueOf(b.body))
}

// same is reflect.DeepEqual but for lines, offsets and the way a token was
// written.
func same(a, b reflect.Value) bool {
	if a.Kind() != b.Kind() || a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Interface, reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		if a.Type() == reflect.TypeFor[*builtin]() {
			return a.Pointer() == b.Pointer()
		}
		return same(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			switch name := a.Type().Field(i).Name; {
			case name == "at", a.Type() == reflect.TypeFor[token]() && (name == "line" || name == "start" || name == "lineStart"):
				continue
			}
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Int, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Uint8:
		return a.Uint() == b.Uint()
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	}
	panic("script: cannot compare a " + a.Kind().String())
}

// Pow is the function of scripts.
var Pow = pow
