package statemachine

import "github.com/kahu-sh/kahu/replication"

// Machine is the deterministic state machine.
type Machine struct{ pos Position }

// New loads a Machine from store.
func New(store Store) (*Machine, error) { return &Machine{}, nil }

// Apply applies one log entry.
func (m *Machine) Apply(index, term uint64, entry []byte) Result { panic("being written") }

// ApplyOther records an entry that is not kahu's own.
func (m *Machine) ApplyOther(index, term uint64, configuration []byte) { panic("being written") }

// Position returns where the machine stands.
func (m *Machine) Position() Position { return m.pos }

// Due returns the earliest end on the lease clock.
func (m *Machine) Due() (leaseClockNS int64, ok bool) { return 0, false }

// Read answers a read from r.
func Read(r Reader, req *replication.Request) *replication.Answer { panic("being written") }

// SessionHolds lists what a session has.
func SessionHolds(r Reader, session []byte) ([]*replication.SessionHold, bool) { return nil, false }
