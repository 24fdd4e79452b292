package script

import "github.com/kahu-sh/kahu/replication"

// Message is the result as it travels.
func (r *Result) Message() *replication.ScriptResult {
	// Most results have one value: all of it in one piece.
	whole := new(struct {
		result  replication.ScriptResult
		pointer [1]*replication.ScriptValue
		parts   [1]valueParts
	})
	out := &whole.result
	out.Kind, out.Reason, out.FuelUsed = replication.ScriptKind(r.Type), r.Reason, uint64(max(r.Fuel, 0))
	parts := whole.parts[:]
	out.Values = whole.pointer[:0]
	if len(r.Values) > 1 {
		parts, out.Values = make([]valueParts, len(r.Values)), make([]*replication.ScriptValue, 0, len(r.Values))
	}
	for i := range r.Values {
		v, m := &r.Values[i], &parts[i]
		m.value.Key, m.value.Revision, m.value.ExpiresAtMs = v.Key, v.Revision, v.ExpiresAtMS
		m.modified.PhysicalMs, m.modified.Counter = v.Modified.MS, v.Modified.Counter
		m.value.Modified = &m.modified
		if !v.Null {
			m.value.Value = v.Value
			if v.Value == nil {
				m.value.Value = []byte{}
			}
		}
		out.Values = append(out.Values, &m.value)
	}
	return out
}

type valueParts struct {
	value    replication.ScriptValue
	modified replication.Timestamp
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
