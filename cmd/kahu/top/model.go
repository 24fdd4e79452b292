package top

import (
	"cmp"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/localapi/diagnosis"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// A Model is what the screen shows, and what the user chose. Its methods return
// the next one; none changes it.
type Model struct {
	width, height int
	interval      time.Duration

	frame  Frame
	rates  Rates
	looked bool   // frame is one
	failed string // why the last look failed; empty when it did not

	ephemeral bool
	byName    bool // order of locks: else those with most waiters come first
	waiters   bool // those of the selected lock are shown
	paused    bool
	selected  string // name of the lock under the cursor
	offset    int    // first lock on the screen
	quit      bool
}

// NewModel begins with an empty screen of a size.
func NewModel(width, height int, interval time.Duration) Model {
	return Model{width: max(width, 20), height: max(height, 8), interval: interval}
}

// Resized is the model on another screen.
func (m Model) Resized(width, height int) Model {
	m.width, m.height = max(width, 20), max(height, 8)
	return m.scrolled()
}

// Looked takes a frame.
func (m Model) Looked(f Frame) Model {
	m.rates = RatesBetween(m.frame, f)
	if !m.looked {
		m.rates = Rates{}
	}
	m.frame, m.looked, m.failed = f, true, ""
	locks := m.locks()
	if i := m.index(locks); i < 0 {
		m.selected = ""
		if len(locks) > 0 {
			m.selected = locks[0].Name
		}
	}
	return m.scrolled()
}

// Failed takes a look that failed: what was seen last stays.
func (m Model) Failed(err error) Model {
	m.failed = err.Error()
	m.frame.Report = diagnosis.NoAgent(m.failed)
	m.rates = Rates{}
	return m
}

// Key takes a key press, as bubbletea names it.
func (m Model) Key(key string) Model {
	locks := m.locks()
	i := m.index(locks)
	move := func(to int) {
		if len(locks) > 0 {
			m.selected = locks[min(max(to, 0), len(locks)-1)].Name
		}
	}
	switch key {
	case "q", "ctrl+c", "esc":
		m.quit = true
	case "up", "k":
		move(i - 1)
	case "down", "j":
		move(i + 1)
	case "pgup":
		move(i - m.room())
	case "pgdown":
		move(i + m.room())
	case "home", "g":
		move(0)
	case "end", "G":
		move(len(locks) - 1)
	case "enter":
		m.waiters = !m.waiters
	case "e":
		m.ephemeral, m.selected, m.offset = !m.ephemeral, "", 0
		m.frame.Locks, m.frame.Lock = nil, nil
	case "s":
		m.byName = !m.byName
	case "p":
		m.paused = !m.paused
	}
	return m.scrolled()
}

// Done reports whether the user wants to leave.
func (m Model) Done() bool { return m.quit }

// Paused reports whether nothing is to be fetched.
func (m Model) Paused() bool { return m.paused }

// Wants is what the next look is for.
func (m Model) Wants() Query {
	q := Query{Ephemeral: m.ephemeral}
	if m.waiters {
		q.Lock = m.selected
	}
	return q
}

// locks are those of the frame in the order shown.
func (m Model) locks() []wire.Lock {
	locks := slices.Clone(m.frame.Locks)
	if !m.byName {
		slices.SortStableFunc(locks, func(a, b wire.Lock) int { return cmp.Compare(b.QueueLength, a.QueueLength) })
	}
	return locks
}

// index is where the selected lock is, -1 when it is gone.
func (m Model) index(locks []wire.Lock) int {
	return slices.IndexFunc(locks, func(l wire.Lock) bool { return l.Name == m.selected })
}

// scrolled is the model with the selected lock on the screen.
func (m Model) scrolled() Model {
	i, room := m.index(m.locks()), m.room()
	if i >= 0 && i < m.offset {
		m.offset = i
	}
	if i >= m.offset+room {
		m.offset = i - room + 1
	}
	m.offset = max(min(m.offset, len(m.frame.Locks)-1), 0)
	return m
}
