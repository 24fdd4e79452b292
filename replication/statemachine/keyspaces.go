package statemachine

import (
	"strings"

	"github.com/kahu-sh/kahu/replication"
)

// problemOfKeySpace: see Kahuna.Core/Controllers/Ranges.cs.
func problemOfKeySpace(name string) string {
	if strings.HasSuffix(name, "/meta") {
		return "a key space does not end in /meta"
	}
	return problemOfName("the key space", name)
}

func keySpaceKey(name string) []byte { return appendName([]byte{tableKeySpace}, name) }

// keySpaceSet records that a key space is ordered by key. There is one group, so
// nothing else depends on it.
func (m *Machine) keySpaceSet(c *command, op *replication.KeySpaceSet) {
	if p := problemOfKeySpace(op.GetName()); p != "" {
		c.invalid(p)
		return
	}
	key := keySpaceKey(op.Name)
	_, known := m.store.Get(key)
	switch {
	case op.Ranged && !known:
		if m.ranged >= MaxKeySpaces {
			c.refuse(replication.Code_CODE_LIMIT, "there are %d key spaces on record", m.ranged)
			return
		}
		m.ranged++
		m.put(key, []byte{rowFormat})
	case !op.Ranged && known:
		m.ranged--
		m.del(key)
	}
	out := &replication.KeySpaces{Changed: op.Ranged != known}
	if op.Ranged {
		out.Names = []string{string([]byte(op.Name))}
	}
	c.answer.Result = &replication.Answer_KeySpaces{KeySpaces: out}
}

func (m *Machine) countKeySpaces() {
	for range m.store.Scan([]byte{tableKeySpace}, []byte{tableKeySpace + 1}) {
		m.ranged++
	}
}

func (v *view) keySpaceList(c *command, op *replication.KeySpaceList) {
	out := new(replication.KeySpaces)
	if op.GetName() != "" {
		if _, known := v.Get(keySpaceKey(op.Name)); known {
			out.Names = []string{op.Name}
		}
		c.answer.Result = &replication.Answer_KeySpaces{KeySpaces: out}
		return
	}
	from, to := nameBounds([]byte{tableKeySpace}, "", op.GetAfter())
	p := newPage(int64(op.GetLimit()))
	for key := range v.Scan(from, to) {
		name, _, ok := cutName(key[1:])
		if !ok {
			panic(damaged(key, "a key space"))
		}
		if !p.take(len(name), len(out.Names) == 0) {
			out.More = true
			break
		}
		out.Names = append(out.Names, name)
	}
	c.answer.Result = &replication.Answer_KeySpaces{KeySpaces: out}
}
