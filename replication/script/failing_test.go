package script_test

import (
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
)

// failing is a store whose every operation ends in an error.
type failing struct {
	*scripttest.Memory
	err error
}

func (f *failing) Get(script.Key, script.At, bool) (script.Row, error) { return script.Row{}, f.err }
func (f *failing) Range(script.Range, func(*script.Row) bool) (int, error) {
	return 0, f.err
}

func (f *failing) Write(*replication.WriteItem) (script.Written, error) {
	return script.Written{}, f.err
}
