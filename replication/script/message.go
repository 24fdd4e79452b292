package script

import "github.com/kahu-sh/kahu/replication"

// Message is the result as it travels.
func (r *Result) Message() *replication.ScriptResult {
	out := &replication.ScriptResult{Kind: replication.ScriptKind(r.Type), Reason: r.Reason, FuelUsed: uint64(max(r.Fuel, 0))}
	if len(r.Values) == 0 {
		return out
	}
	all := make([]struct {
		value    replication.ScriptValue
		modified replication.Timestamp
	}, len(r.Values))
	out.Values = make([]*replication.ScriptValue, len(r.Values))
	for i := range r.Values {
		v, m := &r.Values[i], &all[i]
		m.value.Key, m.value.Revision, m.value.ExpiresAtMs = v.Key, v.Revision, v.ExpiresAtMS
		m.modified.PhysicalMs, m.modified.Counter = v.Modified.MS, v.Modified.Counter
		m.value.Modified = &m.modified
		if !v.Null {
			m.value.Value = v.Value
			if v.Value == nil {
				m.value.Value = []byte{}
			}
		}
		out.Values[i] = &m.value
	}
	return out
}

// FromMessage is the inverse of Message; Commit is not known any more.
func FromMessage(m *replication.ScriptResult) Result {
	r := Result{Type: Type(m.GetKind()), Reason: m.GetReason(), Fuel: int64(m.GetFuelUsed())}
	for _, v := range m.GetValues() {
		r.Values = append(r.Values, ResultValue{
			Key: v.GetKey(), Value: v.GetValue(), Null: v.Value == nil, Revision: v.GetRevision(), ExpiresAtMS: v.GetExpiresAtMs(),
			Modified: Time{MS: v.GetModified().GetPhysicalMs(), Counter: v.GetModified().GetCounter()},
		})
	}
	return r
}

// ParamsOf are the parameters of a request. An absent value is an empty text, as
// on Kahuna's wire (scripts-second-reading.md 70).
func ParamsOf(s *replication.Script) []Param {
	if len(s.GetParameters()) == 0 {
		return nil
	}
	out := make([]Param, len(s.Parameters))
	for i, p := range s.Parameters {
		out[i] = Param{Name: p.GetName(), Value: p.GetValue()}
	}
	return out
}
