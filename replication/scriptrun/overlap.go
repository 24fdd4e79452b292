package scriptrun

import (
	"strings"
	"sync"

	"github.com/kahu-sh/kahu/replication/script"
)

// overlap is the locks of the pessimistic scripts that are under way here, from
// their arrival to their end. A script that runs as a session excludes every other
// one that needs a lock of it, and the other way round: the later one of the two is
// Aborted at once, as with Kahuna, whose suite starts such a pair together and
// wants one to fail (Kahuna.Client.Tests, TestSerializableConflict). Scripts of one
// entry do not exclude each other, since the log orders them, but for those that
// read one bucket where Options.BucketsExclude asks for it.
//
// It is about the time until the session has its locks in the quorum, and about
// not being parked under them. What other agents run meets those alone.
type overlap struct {
	bucketsExclude bool

	mu sync.Mutex
	// keys and buckets count who has a lock; within counts, under the name of a
	// bucket, who has the lock of a key of it.
	keys, buckets, within map[script.Key]users
}

// users counts scripts, and those among them that are sessions.
type users struct{ all, sessions int }

// excludes says whether a script may not have what these have.
func (u users) excludes(session bool) bool {
	if session {
		return u.all > 0
	}
	return u.sessions > 0
}

func newOverlap(bucketsExclude bool) *overlap {
	return &overlap{bucketsExclude: bucketsExclude, keys: make(map[script.Key]users), buckets: make(map[script.Key]users), within: make(map[script.Key]users)}
}

// enter takes the locks or names the one that is refused. After nil it is for the
// caller to leave.
func (o *overlap) enter(locks []script.Lock, session bool) *script.Lock {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, l := range locks {
		taken := o.buckets[bucketOf(l)]
		if l.Bucket {
			if o.within[l.Key].excludes(session) || o.bucketsExclude && taken.all > 0 {
				return &locks[i]
			}
		} else if o.keys[l.Key].excludes(session) {
			return &locks[i]
		}
		if taken.excludes(session) {
			return &locks[i]
		}
	}
	o.count(locks, session, 1)
	return nil
}

// leave frees what enter took.
func (o *overlap) leave(locks []script.Lock, session bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count(locks, session, -1)
}

func (o *overlap) count(locks []script.Lock, session bool, n int) {
	add := func(m map[script.Key]users, k script.Key) {
		u := m[k]
		u.all += n
		if session {
			u.sessions += n
		}
		if u.all == 0 {
			delete(m, k)
			return
		}
		m[k] = u
	}
	for _, l := range locks {
		if l.Bucket {
			add(o.buckets, l.Key)
			continue
		}
		add(o.keys, l.Key)
		add(o.within, bucketOf(l))
	}
}

// bucketOf is the bucket that a lock is on, or that its key is in.
func bucketOf(l script.Lock) script.Key {
	if l.Bucket {
		return l.Key
	}
	k := l.Key
	// A key without a slash is in no bucket; no bucket has this name, which ends in one.
	if i := strings.LastIndexByte(k.Name, '/'); i >= 0 {
		k.Name = k.Name[:i]
	} else {
		k.Name = "/"
	}
	return k
}
