package statemachine_test

import (
	"fmt"
	"testing"

	"github.com/kahu-sh/kahu/replication"
)

// TestItemsOfOneWriteAreBounded: a write of 300,000 empty items, which fits a
// request, took a second to apply.
func TestItemsOfOneWriteAreBounded(t *testing.T) {
	s := newScripts(t)
	write := func(n int) *replication.Answer {
		w := &replication.Write{}
		for i := range n {
			w.Items = append(w.Items, &replication.WriteItem{Durability: 1, Key: fmt.Sprint(i)})
		}
		return s.apply(&replication.Request{Op: &replication.Request_Write{Write: w}})[0]
	}
	if a := write(replication.MaxWriteItems); a.Code != replication.Code_CODE_OK {
		t.Errorf("the most: %v %s", a.Code, a.Detail)
	}
	if a := write(replication.MaxWriteItems + 1); a.Code != replication.Code_CODE_INVALID || a.GetWritten() != nil {
		t.Errorf("one more: %v %s", a.Code, a.Detail)
	}
}
