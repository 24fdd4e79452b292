package doors

import (
	"strings"
	"testing"
)

// FuzzBearer: what is taken as a token is one word, and was in the header.
func FuzzBearer(f *testing.F) {
	for _, s := range []string{"Bearer xxx", "bearer  x ", "Basic x", "", "Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "Bearer\tx"} {
		f.Add(s, "")
	}
	f.Add("Bearer a", "Bearer b")
	f.Fuzz(func(t *testing.T, one, two string) {
		values := []string{one}
		if two != "" {
			values = append(values, two)
		}
		token, ok := bearer(values)
		switch {
		case !ok && token != "" && len(values) == 1 && !strings.ContainsAny(token, " ,"):
			t.Errorf("%q gives %q, and is refused", values, token)
		case ok && (len(values) != 1 || token == "" || strings.ContainsAny(token, " ,") || !strings.HasSuffix(strings.TrimRight(one, " "), " "+token)):
			t.Errorf("%q gives %q", values, token)
		case ok && !strings.EqualFold(one[:7], "Bearer "):
			t.Errorf("%q is no bearer", one)
		}
	})
}
