package script

import "github.com/kahu-sh/kahu/replication"

// state resolves AT and AS OF. Own AS OF goes before that of BEGIN (snapshot=…).
func (r *run) state(s *readStmt) (At, error) {
	at := At{AsOfMS: r.snapshotMS}
	if s.asOf != nil {
		v, err := r.eval(s.asOf)
		if err != nil {
			return at, err
		}
		ms, ok := integer(&v)
		switch {
		case !ok:
			return at, failAt(s.asOf.line(), "AS OF needs milliseconds since 1970, not %s", v.kind)
		case ms == 0:
			return at, failAt(s.asOf.line(), "AS OF 0 is not a valid snapshot timestamp")
		}
		at.AsOfMS = ms
	}
	// AT below zero is the newest revision (scripts-second-reading.md 47).
	if s.hasRevision && s.revision >= 0 {
		at.Revision, at.HasRevision = s.revision, true
	}
	return at, nil
}

// read carries out a reading command: the value for a variable, and the result
// of the statement if that is wanted.
func (r *run) read(s *readStmt, wantResult bool) (value, outcome, error) {
	var key string
	var err error
	if s.what == readGet || s.what == readExists {
		key, err = r.ownKey(&s.key, s.durability)
	} else if key, err = r.key(&s.key); err == nil && (key == "" || len(key) > replication.MaxNameBytes) {
		err = &badKey{Lock{Key{s.durability, key}, true}}
	}
	if err != nil {
		return null, outcome{}, err
	}
	at, err := r.state(s)
	if err != nil {
		return null, outcome{}, err
	}
	switch s.what {
	case readGet:
		return r.get(s, Key{s.durability, key}, at)
	case readExists:
		return r.exists(s, Key{s.durability, key}, at)
	}
	return r.rows(s, Range{Durability: s.durability, Prefix: key, Bucket: s.what == readBucket, AsOfMS: at.AsOfMS}, wantResult)
}

func (r *run) get(s *readStmt, key Key, at At) (value, outcome, error) {
	row, err := r.lookup(key, at, true)
	if err != nil {
		return null, outcome{}, err
	}
	if !row.Found {
		return null, outcome{kind: TypeDoesNotExist, one: ResultValue{Key: key.Name, Null: true, Revision: -1}, hasOne: true}, nil
	}
	v := null
	if s.bind != nil || !r.direct {
		v = text(fromStore(row.Value))
		v.rev, v.expires = row.Revision, row.ExpiresAtMS
	}
	return v, outcome{kind: TypeGet, one: row.result(), hasOne: true}, nil
}

// exists answers without the value. A miss has revision 0 (scripts-second-reading.md
// 49).
func (r *run) exists(s *readStmt, key Key, at At) (value, outcome, error) {
	row, err := r.lookup(key, at, false)
	if err != nil {
		return null, outcome{}, err
	}
	row.Key, row.Value, row.Null = key.Name, nil, true
	t := TypeExists
	if !row.Found {
		t, row.Revision = TypeDoesNotExist, 0
	}
	v := boolean(row.Found)
	v.rev, v.expires = row.Revision, row.ExpiresAtMS
	return v, outcome{kind: t, one: row.result(), hasOne: true}, nil
}

func (r *run) lookup(key Key, at At, withValue bool) (Row, error) {
	price := priceRead + priceRowByte*int64(len(key.Name))
	if at != (At{}) {
		price += priceHistory
	}
	if err := r.burn(price); err != nil {
		return Row{}, err
	}
	row, err := r.store.Get(key, at, withValue)
	if err != nil {
		return Row{}, err
	}
	price = priceRowByte * int64(len(row.Value))
	if r.dearer() {
		price += priceRow * int64(max(row.Looked-priceHistory/priceRow, 0))
	}
	return row, r.burn(price)
}

func (row *Row) result() ResultValue {
	return ResultValue{Key: row.Key, Value: row.Value, Null: row.Null, Revision: row.Revision, ExpiresAtMS: row.ExpiresAtMS, Modified: row.Modified}
}

// rows carries out GET BY BUCKET and SCAN BY PREFIX. Nothing is ever cut off:
// what is too much is an error (decisions.md 29).
func (r *run) rows(s *readStmt, rng Range, wantResult bool) (value, outcome, error) {
	if err := r.burn(priceRead + priceRowByte*int64(len(rng.Prefix))); err != nil {
		return null, outcome{}, err
	}
	var elems []value
	res := outcome{kind: TypeGet}
	var failed error
	size, count := int64(0), 0
	if r.dearer() && r.env.Refill == nil {
		rng.Most = 1 + r.fuel/priceRow
	}
	looked, err := r.store.Range(rng, func(row *Row) bool {
		bytes := int64(len(row.Key) + len(row.Value))
		if failed = r.burn(priceRow + priceRowByte*bytes); failed != nil {
			return false
		}
		size, count = size+bytes, count+1
		if size > MaxReadBytes || count > MaxArrayElements {
			failed = failAt(s.line(), "The read gives more than %d rows or %d bytes: read a range in pages instead", MaxArrayElements, MaxReadBytes)
			return false
		}
		if s.bind != nil || !wantResult {
			v := text(fromStore(row.Value))
			v.rev, v.expires = row.Revision, row.ExpiresAtMS
			elems = append(elems, v)
		}
		if wantResult {
			v := row.result()
			v.Modified = Time{}
			res.rows = append(res.rows, v)
		}
		return true
	})
	if r.dearer() {
		if spent := r.burn(priceRow * int64(max(looked-count, 0))); spent != nil {
			return null, outcome{}, spent
		}
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return null, outcome{}, err
	}
	if count == 0 {
		res.kind = TypeDoesNotExist
	}
	return list(elems), res, nil
}
