package statemachine

import (
	"github.com/kahu-sh/kahu/replication"
)

// view is a consistent reading of all rows, and of the state in them.
type view struct {
	Reader
	state
	holds *heldSince // shared by the views of one command
}

// Read answers a read from r, which must not change meanwhile; many may run at
// once on one r if that allows it. What has ended is judged by the lease clock
// in r. Index and time of the answer are those of r. A request that is no read is
// INVALID; a row that cannot be read gives UNKNOWN_OUTCOME and says so.
func Read(r Reader, req *replication.Request) *replication.Answer {
	p, err := Prepare(r)
	if err != nil {
		return &replication.Answer{Code: replication.Code_CODE_UNKNOWN_OUTCOME, Detail: err.Error()}
	}
	return p.Read(r, req)
}

// Prepared is what every read from rows of one index looks at first. It may be
// kept, and used for any Reader of that index, also by many at once.
type Prepared struct{ state state }

// Prepare reads it. The error says that a row cannot be read.
func Prepare(r Reader) (p *Prepared, err error) {
	defer rescue(&err)
	return &Prepared{loadState(r)}, nil
}

// Read is the function Read, for an r of the same index.
func (p *Prepared) Read(r Reader, req *replication.Request) *replication.Answer {
	a, err := p.read(r, req)
	if err != nil {
		return &replication.Answer{Code: replication.Code_CODE_UNKNOWN_OUTCOME, Detail: err.Error()}
	}
	return a
}

func (p *Prepared) read(r Reader, req *replication.Request) (a *replication.Answer, err error) {
	defer rescue(&err)
	v := view{r, p.state, new(heldSince)}
	a = &replication.Answer{Index: v.index, Time: v.label.timestamp()}
	v.answer(&command{req: req, label: v.label, answer: a})
	return a, nil
}

func (v *view) answer(c *command) {
	switch op := c.req.GetOp().(type) {
	case *replication.Request_LockGet:
		v.lockGet(c, op.LockGet)
	case *replication.Request_LockList:
		v.lockList(c, op.LockList)
	case *replication.Request_Get:
		v.getKeys(c, op.Get)
	case *replication.Request_Range:
		v.keyRange(c, op.Range)
	case *replication.Request_History:
		v.keyHistory(c, op.History)
	case *replication.Request_SequenceGet:
		v.sequenceGet(c, op.SequenceGet)
	case *replication.Request_SequenceList:
		v.sequenceList(c, op.SequenceList)
	case *replication.Request_SessionGet:
		v.sessionGet(c, op.SessionGet)
	case *replication.Request_MachineGet:
		c.answer.Result = &replication.Answer_Machine{Machine: v.machineState()}
	case *replication.Request_SnapshotFloorGet:
		v.snapshotFloor(c, op.SnapshotFloorGet)
	case *replication.Request_KeySpaceList:
		v.keySpaceList(c, op.KeySpaceList)
	case *replication.Request_TxList:
		v.txList(c, op.TxList)
	case *replication.Request_ScriptRead:
		v.script(c, op.ScriptRead)
	default:
		c.invalid("the request is not a read")
	}
}

// page bounds what one answer carries.
type page struct {
	rows, bytes int // left
}

func newPage(limit int64) page {
	if limit <= 0 || limit > replication.MaxPageRows {
		limit = replication.MaxPageRows
	}
	return page{rows: int(limit), bytes: replication.MaxPageBytes}
}

// take reports whether something of this size still fits, and takes the room. A
// page that is empty takes anything, so that every page makes progress.
func (p *page) take(size int, empty bool) bool {
	if !empty && (p.rows == 0 || p.bytes < size) {
		return false
	}
	p.rows--
	p.bytes -= size
	return true
}

func (v *view) sequenceGet(c *command, op *replication.SequenceGet) {
	if op.GetName() == "" {
		c.invalid("the sequence's name is empty")
		return
	}
	s, ok := readSequence(v, op.GetName())
	if !ok {
		c.refuse(replication.Code_CODE_NOT_FOUND, textNoSequence)
		return
	}
	c.answer.Result = &replication.Answer_Sequence{Sequence: s.describe()}
}

func (v *view) sequenceList(c *command, op *replication.SequenceList) {
	from, to := nameBounds([]byte{tableSequence}, op.GetPrefix(), op.GetAfter())
	out := new(replication.Sequences)
	p := newPage(int64(op.GetLimit()))
	for key, row := range v.Scan(from, to) {
		name, _, ok := cutName(key[1:])
		s, ok2 := decodeSequence(row)
		if !ok || !ok2 {
			panic(damaged(key, "a sequence"))
		}
		s.name = name
		d := s.describe()
		if !p.take(d.SizeVT(), len(out.Sequences) == 0) {
			out.More = true
			break
		}
		out.Sequences = append(out.Sequences, d)
	}
	c.answer.Result = &replication.Answer_Sequences{Sequences: out}
}

// nameBounds are the bounds of the names under a prefix and greater than after,
// in a table whose keys begin with head.
func nameBounds(head []byte, prefix, after string) (from, to []byte) {
	base := func() []byte { return append(make([]byte, 0, len(head)+len(prefix)+len(after)+8), head...) }
	from = appendEscaped(base(), prefix)
	to = successor(appendEscaped(base(), prefix))
	if after != "" {
		if a := passed(appendName(base(), after)); string(a) > string(from) {
			from = a
		}
	}
	return from, to
}
