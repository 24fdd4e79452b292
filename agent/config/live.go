package config

import (
	"reflect"
	"slices"
)

// liveKeys are the settings that a running agent takes over when it reads its
// configuration again; sample.yaml says the same of each. All others need a
// restart, which costs no lock.
var liveKeys = []string{"log-level", "policy", "limits.holds"}

// Live reports whether a running agent can take over a new value of a key.
func Live(key string) bool { return slices.Contains(liveKeys, key) }

// Changed returns the keys whose text differs, in the order of the file.
func Changed(before, after File) []string {
	return changed("", reflect.ValueOf(before), reflect.ValueOf(after))
}

func changed(prefix string, before, after reflect.Value) (keys []string) {
	t := before.Type()
	for i := range t.NumField() {
		key, a, b := prefix+t.Field(i).Tag.Get("koanf"), before.Field(i), after.Field(i)
		switch {
		case t.Field(i).Type.Kind() == reflect.Struct:
			keys = append(keys, changed(key+keyDelimiter, a, b)...)
		case a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0: // nil or empty: the same
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
