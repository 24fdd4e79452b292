package script

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/kahu-sh/kahu/replication"
)

// key resolves the text that names a key or prefix.
func (r *run) key(k *keyName) (string, error) {
	if k.kind == tokPlaceholder {
		if r.params[k.index].missing {
			return "", failAt(k.line(), "Undefined parameter: %s", k.text)
		}
		return r.params[k.index].text, nil
	}
	if k.text == "" {
		kind := "Identifier"
		if k.kind == tokString {
			kind = "StringType"
		}
		return "", failAt(k.line(), "Invalid key name type %s", kind)
	}
	return k.text, nil
}

// ownKey is key for a command on one key, which must be one that can exist.
func (r *run) ownKey(k *keyName, d replication.Durability) (string, error) {
	name, err := r.key(k)
	if err == nil && (name == "" || len(name) > replication.MaxNameBytes || strings.HasPrefix(name, reservedKeys) || !utf8.ValidString(name)) {
		return "", &badKey{Lock{Key: Key{d, name}}}
	}
	return name, err
}

// reservedKeys begins the keys that nobody may use (decisions.md 12).
const reservedKeys = "__kahuna:"

// badKey ends a script that names a key which cannot exist: a single command is
// invalid, a transaction fails at its lock (scripts-second-reading.md 40).
type badKey struct{ lock Lock }

func (e *badKey) Error() string { return LockRefused(e.lock) }

func (e *badKey) result(direct bool) Result {
	if !direct {
		return Result{Type: TypeAborted, Reason: e.Error()}
	}
	return Result{Type: TypeInvalidInput, Values: []ResultValue{{Key: fmt.Sprintf("%.100s", e.lock.Name), Null: true, Revision: -1}}}
}

// LockRefused is the reason of a script that did not get a lock (scripts.md 23).
func LockRefused(l Lock) string {
	table := "Persistent"
	if l.Durability == ephemeral {
		table = "Ephemeral"
	}
	if l.Bucket {
		return fmt.Sprintf("Failed to acquire prefix lock: %.200s %s", l.Name, table)
	}
	return fmt.Sprintf("Failed to acquire lock: %.200s %s", l.Name, table)
}

// set carries out SET and ESET: modifiers first, then the value.
func (r *run) set(s *setStmt) error {
	key, err := r.ownKey(&s.key, s.durability)
	if err != nil {
		return err
	}
	item := &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_SET, Durability: s.durability, Key: key}
	for _, f := range s.flags {
		if err := r.modifier(s, f, item); err != nil {
			return err
		}
	}
	v, err := r.eval(s.value)
	if err != nil {
		return err
	}
	b, ok := v.bytes()
	if !ok {
		return failAt(s.line(), "Cannot convert array to bytes")
	}
	item.Value = b
	return r.write(s.line(), item, s.bind)
}

func (r *run) modifier(s *setStmt, f setFlag, item *replication.WriteItem) error {
	var v value
	if f.x != nil {
		var err error
		if v, err = r.eval(f.x); err != nil {
			return err
		}
	}
	switch f.kind {
	case tokNX:
		item.IfNotExists = true
	case tokXX:
		item.IfExists = true
	case tokNoRev:
		item.NoHistory = true
	case tokEX:
		ms, ok := milliseconds(&v)
		if !ok {
			return failAt(s.line(), "Invalid SET EX expression")
		}
		item.ExpiresMs = ms
	case tokCmp:
		b, ok := v.bytes()
		if !ok {
			return failAt(s.line(), "Cannot convert array to bytes")
		}
		item.IfValue, item.CompareValue = true, b
	case tokCmpRev:
		n, ok := integer(&v)
		if !ok {
			return failAt(s.line(), "Invalid SET CMPREV expression")
		}
		item.IfRevision, item.CompareRevision = true, n
	}
	return nil
}

// milliseconds is a Long, or a text that is one: parameters always are texts
// (decisions.md 45a).
func milliseconds(v *value) (int64, bool) {
	if v.kind == kindString {
		return parseLong(v.str)
	}
	return v.bits, v.kind == kindLong
}

// integer is the conversion that CMPREV and AS OF make (scripts.md 35, 40).
func integer(v *value) (int64, bool) {
	switch v.kind {
	case kindNull:
		return 0, true
	case kindBool, kindLong:
		return v.bits, true
	case kindDouble:
		return truncate(v.float()), true
	case kindString:
		return parseLong(v.str)
	}
	return 0, false
}

func (r *run) delete(s *deleteStmt) error {
	key, err := r.ownKey(&s.key, s.durability)
	if err != nil {
		return err
	}
	return r.write(s.line(), &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_DELETE, Durability: s.durability, Key: key}, s.bind)
}

func (r *run) extend(s *extendStmt) error {
	key, err := r.ownKey(&s.key, s.durability)
	if err != nil {
		return err
	}
	v, err := r.eval(s.ms)
	if err != nil {
		return err
	}
	ms, ok := milliseconds(&v)
	if !ok {
		return failAt(s.line(), "Invalid EXTEND expression")
	}
	return r.write(s.line(), &replication.WriteItem{Kind: replication.WriteKind_WRITE_KIND_EXTEND, Durability: s.durability, Key: key, ExpiresMs: ms}, s.bind)
}

// write has a write judged, and makes its outcome the statement's result. What
// is refused does not stop the script (scripts.md 37).
func (r *run) write(line int, item *replication.WriteItem, bind binding) error {
	if r.snapshotMS != 0 {
		return &AbortError{Reason: reasonSnapshot}
	}
	size := int64(len(item.Key) + len(item.Value))
	if err := r.burn(priceWrite + priceRowByte*(size+int64(len(item.CompareValue)))); err != nil {
		return err
	}
	if r.written += size; r.written > MaxWrittenBytes {
		return failAt(line, "The script writes more than %d bytes", MaxWrittenBytes)
	}
	kind, key := item.Kind, item.Key
	w, err := r.store.Write(item)
	if err == nil {
		err = r.burn(priceRowByte * w.ValueBytes)
	}
	if err != nil {
		return err
	}
	t, done := typeOfWrite(kind, w.Code)
	if !done && kind != replication.WriteKind_WRITE_KIND_SET {
		w.Revision = max(w.Revision, 0)
	}
	r.take(outcome{kind: t, one: ResultValue{Key: key, Null: true, Revision: w.Revision, Modified: w.Modified}, hasOne: true})
	r.modified, r.did[guardSet] = t, true
	switch kind {
	case replication.WriteKind_WRITE_KIND_DELETE:
		r.deleted, r.did[guardDeleted] = t, true
	case replication.WriteKind_WRITE_KIND_EXTEND:
		r.extended, r.did[guardExtended] = t, true
	}
	if bind == nil {
		return nil
	}
	v := boolean(done)
	v.rev = w.Revision
	return r.assign(bind, v)
}

// typeOfWrite names the outcome of a write, and reports whether it took effect.
func typeOfWrite(kind replication.WriteKind, code replication.Code) (Type, bool) {
	switch code {
	case replication.Code_CODE_OK:
		switch kind {
		case replication.WriteKind_WRITE_KIND_DELETE:
			return TypeDeleted, true
		case replication.WriteKind_WRITE_KIND_EXTEND:
			return TypeExtended, true
		}
		return TypeSet, true
	case replication.Code_CODE_CONDITION_FAILED:
		return TypeNotSet, false
	case replication.Code_CODE_NOT_FOUND:
		return TypeDoesNotExist, false
	}
	return TypeInvalidInput, false
}
