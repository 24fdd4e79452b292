package stage

import (
	"os"
	"slices"
)

// frugal are variables that make the start of a stage cheap, and its memory small: one
// processor is enough to wait for events, and each further one, each arena of the C
// library, and the search for the container's share of processors cost every command
// that is guarded. They are the keeper's and the init's alone; whoever has set one of
// them has it back before the stage runs anything.
var frugal = []variable{
	{"GOMAXPROCS", "1", false},
	{"MALLOC_ARENA_MAX", "1", false},
	{"GODEBUG", "containermaxprocs=0", true},
}

type variable struct {
	name, value string
	list        bool // with commas; what is there stays in front
}

// was begins the name of a variable that has what the user had set.
const was = marker + "_WAS_"

// beFrugal adds the variables to an environment.
func beFrugal(env []string) []string {
	out := make([]string, 0, len(env)+2*len(frugal))
	had := make([]bool, len(frugal))
	for _, v := range env {
		name := nameOf(v)
		i := slices.IndexFunc(frugal, func(f variable) bool { return f.name == name })
		switch {
		case i < 0 || name == v:
			out = append(out, v)
		case !had[i]: // the first is what getenv finds
			had[i] = true
			value := frugal[i].value
			if frugal[i].list {
				value = v[len(name)+1:] + "," + value
			}
			out = append(out, was+v, name+"="+value)
		}
	}
	for i, f := range frugal {
		if !had[i] {
			out = append(out, f.name+"="+f.value)
		}
	}
	return out
}

// beAsBefore gives this process's environment back what beFrugal has taken.
func beAsBefore() {
	for _, f := range frugal {
		if value, ok := os.LookupEnv(was + f.name); ok {
			_ = os.Setenv(f.name, value) // a name that was there
			_ = os.Unsetenv(was + f.name)
		} else {
			_ = os.Unsetenv(f.name)
		}
	}
}
