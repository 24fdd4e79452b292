package wire_test

import (
	"strings"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// tenSeconds is the expiry of most keys in the suite, and soon of those that are
// waited for: long enough to be read before.
var tenSeconds = write{ms: 10_000}

const soon int32 = 400

// keyStories are TestKeyValues.
func keyStories() []story {
	const class, value = "TestKeyValues.", "some-value"
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, byDurability, tell}) }

	add("TestEmptyKey", func(e *env) {
		_, err := e.c.setAt(e.Context(), e.c.url(), tx{}, "", []byte(value), e.d, tenSeconds)
		e.throws(err, invalidInput)
		if !strings.Contains(err.Error(), "Failed to set key/value") {
			e.Errorf("the message is %q", err)
		}
	})
	for _, name := range []string{"TestSingleSetValue", "TestSingleSetBytes", "TestSingleSetValueExpiresTimeSpan", "TestSingleSetBytesExpiresTimeSpan"} {
		add(name, func(e *env) { e.is("set", e.set(random(), value, tenSeconds), true, 0) })
	}
	add("TestSingleSetValueTwice", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, tenSeconds), true, 0)
		e.is("second", e.set(key, value, tenSeconds), true, 1)
	})
	out = append(out, conditionStories()...)
	add("TestSingleSetAndGetValue", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.reads(key, value, 0)
	})
	add("TestSingleSetAndGetValueTwice", func(e *env) {
		key := random()
		for i := range int64(2) {
			e.is("set", e.set(key, value, tenSeconds), true, i)
			e.reads(key, value, i)
		}
	})
	out = append(out, expiryStories()...)
	add("TestSingleSetValueAndDelete", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.reads(key, value, 0)
		e.is("delete", e.delete(key), true, 1)
		e.gone(key)
		e.is("set again", e.set(key, "some-value-2", tenSeconds), true, 2)
		e.reads(key, "some-value-2", 2)
	})
	add("TestSingleSetValueAndDeleteWithRefObject", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.is("delete", e.delete(key), true, 1)
	})
	add("TestSingleSetValueAndExists", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.reads(key, value, 0)
		got, err := e.c.existsAt(e.Context(), e.c.url(), tx{}, key, e.d)
		e.ok(err)
		e.is("exists", got, true, 0)
	})
	add("TestSingleSetValueAndDeleteAndSetIfExists", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.reads(key, value, 0)
		e.is("delete", e.delete(key), true, 1)
		e.gone(key)
		e.is("set if it exists", e.set(key, "some-value-2", write{ms: 10_000, flags: ifExists}), false, 1)
		e.gone(key)
	})
	add("TestMultiSet", func(e *env) {
		one, two := random(), random()
		got := e.setMany(&pb.GrpcTrySetManyKeyValueRequestItem{Key: one, Value: []byte("some-value 1"), Durability: e.d},
			&pb.GrpcTrySetManyKeyValueRequestItem{Key: two, Value: []byte("some-value 2"), Durability: e.d})
		if len(got) != 2 {
			e.Fatalf("%d answers to two items", len(got))
		}
		for _, one := range got {
			e.is("an item", one, true, 0)
		}
	})
	add("TestSingleSetValueAndGetRevision", func(e *env) {
		key := random()
		past := func(revision int64, want string) {
			e.Helper()
			got, err := e.c.getAt(e.Context(), e.c.url(), tx{}, key, revision, e.d)
			e.ok(err)
			e.is("a revision", got, true, revision)
			if string(got.value) != want {
				e.Fatalf("revision %d is %q, and %q is expected", revision, got.value, want)
			}
		}
		e.is("first", e.set(key, value, write{}), true, 0)
		e.is("second", e.set(key, "some-value-2", write{}), true, 1)
		e.reads(key, "some-value-2", 1)
		past(0, value)
		e.is("third", e.set(key, "some-value-3", write{}), true, 2)
		past(1, "some-value-2")
	})
	return append(out, scanStories()...)
}

// conditionStories are those of TestKeyValues about conditions.
func conditionStories() []story {
	const class, value = "TestKeyValues.", "some-value"
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, byDurability, tell}) }
	unless, provided := write{ms: 10_000, flags: ifNotExists}, write{ms: 10_000, flags: ifExists}

	add("TestSingleSetValueIfNotExists", func(e *env) { e.is("set", e.set(random(), value, unless), true, 0) })
	add("TestSingleSetValueIfNotExistsTwice", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, unless), true, 0)
		e.is("second", e.set(key, value, unless), false, 0)
	})
	add("TestSingleSetValueIfExists", func(e *env) { e.is("set", e.set(random(), value, provided), false, -1) })
	add("TestSingleSetValueIfExistsTwice", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, tenSeconds), true, 0)
		e.is("second", e.set(key, value, provided), true, 1)
	})
	add("TestSingleSetValueIfOrNotExists", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, tenSeconds), true, 0)
		e.is("second", e.set(key, value, provided), true, 1)
		e.is("third", e.set(key, value, unless), false, 1)
	})
	add("TestSingleSetValueIfNotExistsAndGetValue", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, unless), true, 0)
		e.reads(key, value, 0)
	})
	add("TestCompareValueAndSetKeyValue", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.is("swap", e.set(key, "some-new-value", write{ms: 10_000, flags: ifValue, compareValue: []byte(value)}), true, 1)
		e.reads(key, "some-new-value", 1)
	})
	add("TestCompareUnknownValueAndSetKeyValue", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		e.is("swap", e.set(key, "some-new-value", write{ms: 10_000, flags: ifValue, compareValue: []byte("other-some-value")}), false, 0)
		e.reads(key, value, 0)
	})
	add("TestCompareRevisionAndSetKeyValue", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, tenSeconds), true, 0)
		e.is("second", e.set(key, "some-new-value", tenSeconds), true, 1)
		e.is("swap", e.set(key, "some-new-new-value", write{ms: 10_000, flags: ifRevision, compareRev: 1}), true, 2)
		e.reads(key, "some-new-new-value", 2)
	})
	add("TestCompareUnknownRevisionAndSetKeyValue", func(e *env) {
		key := random()
		e.is("first", e.set(key, value, tenSeconds), true, 0)
		e.is("second", e.set(key, "some-new-value", tenSeconds), true, 1)
		e.is("swap", e.set(key, "some-new-new-value", write{ms: 10_000, flags: ifRevision, compareRev: 10}), false, 1)
		e.reads(key, "some-new-value", 1)
	})
	return out
}

// expiryStories are those of TestKeyValues about expiry. The suite waits for 1.5 s;
// here it is waited for the end.
func expiryStories() []story {
	const class, value = "TestKeyValues.", "some-value"
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, byDurability, tell}) }

	add("TestSingleSetAndGetValueExpires", func(e *env) {
		key, start := random(), time.Now()
		e.is("set", e.set(key, value, write{ms: soon}), true, 0)
		e.expires(key, value, 0, start, soon)
	})
	add("TestSingleSetAndGetValueExpires2", func(e *env) {
		one, two, start := random(), random(), time.Now()
		e.is("one", e.set(one, value, write{ms: soon}), true, 0)
		e.is("two", e.set(two, value, write{ms: soon}), true, 0)
		e.expires(one, value, 0, start, soon)
		e.expires(two, value, 0, start, soon)
	})
	add("TestSingleSetAndGetValueExpiresMultiple", func(e *env) {
		one, two, start := random(), random(), time.Now()
		e.is("one", e.set(one, value, write{ms: soon}), true, 0)
		e.is("two", e.set(two, value, write{ms: soon}), true, 0)
		e.expires(one, value, 0, start, soon)
		e.expires(two, value, 0, start, soon)
		for _, key := range []string{one, two} {
			e.is("set again", e.set(key, value, tenSeconds), true, 1)
			e.reads(key, value, 1)
		}
	})
	add("TestSingleSetAndGetValueShortExpires", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, write{ms: 1}), true, 0)
		wait(e.T, "the key expires", func() bool { return !e.get(key).success })
		e.gone(key)
	})
	for _, name := range []string{"TestSingleSetValueAndExtend", "TestSingleSetValueAndExtendTimeSpan"} {
		add(name, func(e *env) {
			key, witness := random(), random()
			e.is("set", e.set(key, value, write{ms: 1000}), true, 0)
			got, err := e.c.extendAt(e.Context(), e.c.url(), tx{}, key, 60_000, e.d)
			e.ok(err)
			e.is("extend", got, true, 0)
			// Set after it, with as much time as it had at first, and gone: so it would be.
			e.is("witness", e.set(witness, value, write{ms: 1000}), true, 0)
			wait(e.T, "the witness expires", func() bool { return !e.get(witness).success })
			e.reads(key, value, 0)
		})
	}
	return out
}

// scanStories are those of TestKeyValues about buckets and prefixes.
func scanStories() []story {
	const class, value = "TestKeyValues.", "some-value"
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, byDurability, tell}) }

	three := func(e *env, prefix string) {
		for range 3 {
			e.is("set", e.set(prefix+"/"+random(), value, tenSeconds), true, 0)
		}
	}
	add("TestScanAllByPrefix", func(e *env) {
		prefix := random()
		three(e, prefix)
		got, err := e.c.scan(e.Context(), prefix, e.d)
		e.ok(err)
		e.under(got, 3, prefix)
	})
	add("TestScanAllByExactPrefix", func(e *env) {
		key := random()
		e.is("set", e.set(key, value, tenSeconds), true, 0)
		got, err := e.c.scan(e.Context(), key, e.d)
		e.ok(err)
		e.under(got, 1, key)
	})
	add("TestGetByBucket", func(e *env) {
		prefix := random()
		three(e, prefix)
		e.under(e.bucket(prefix), 3, prefix)
	})
	add("TestGetByBucketUnknown", func(e *env) { e.under(e.bucket(random()), 0, "") })
	return out
}

func (e *env) delete(key string) entry {
	e.Helper()
	got, err := e.c.deleteAt(e.Context(), e.c.url(), tx{}, key, e.d)
	e.ok(err)
	return got
}

func (e *env) bucket(prefix string) []entry {
	e.Helper()
	got, err := e.c.bucketAt(e.Context(), e.c.url(), tx{}, prefix, e.d)
	e.ok(err)
	return got
}

// under wants so many entries, all with the prefix.
func (e *env) under(got []entry, n int, prefix string) {
	e.Helper()
	if len(got) != n {
		e.Fatalf("%d entries, and %d are expected: %v", len(got), n, got)
	}
	for _, one := range got {
		if !strings.HasPrefix(one.key, prefix) {
			e.Errorf("%q does not begin with %q", one.key, prefix)
		}
	}
}

// setMany is client.SetManyKeyValues.
func (e *env) setMany(items ...*pb.GrpcTrySetManyKeyValueRequestItem) []entry {
	e.Helper()
	m, err := e.c.call(e.Context(), e.c.url(), &pb.GrpcTrySetManyKeyValueRequest{Items: items})
	e.ok(err)
	var out []entry
	for _, one := range m.(*pb.GrpcTrySetManyKeyValueResponse).Items {
		out = append(out, entry{success: one.Type == 0, key: one.Key, revision: one.Revision})
	}
	return out
}
