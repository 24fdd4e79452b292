package top

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"github.com/kahu-sh/kahu/localapi/diagnosis"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// A Theme colors parts of the screen. Each function must keep the width.
type Theme struct {
	Title, Good, Warn, Bad, Faint, Head, Selected func(string) string
}

// Plain is the theme without colors.
func Plain() Theme {
	same := func(s string) string { return s }
	return Theme{same, same, same, same, same, same, same}
}

const (
	// headLines are above the members: title, verdict, what to do, rates, holds.
	headLines = 5
	// maxMembers are shown before the rest is summed up.
	maxMembers = 6
	// maxWaiters of the selected lock are shown.
	maxWaiters = 5
)

// View is the screen: at most height lines of at most width cells.
func (m Model) View(t Theme) string {
	if !m.looked {
		text := "kahu top: asking the agent"
		if m.failed != "" {
			text = "kahu top: " + m.failed
		}
		return m.cut(text)
	}
	lines := m.head(t)
	lines = append(lines, m.members(t)...)
	lines = append(lines, m.lockLines(t)...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-1], t.Faint(m.cut(m.keys())))
	return strings.Join(lines, "\n")
}

// Still is View without what only a terminal needs: the keys, and empty lines.
func (m Model) Still(t Theme) string {
	lines := strings.Split(m.View(t), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if len(lines) > 1 {
		lines = lines[:len(lines)-1]
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// cut is a line without what does not fit.
func (m Model) cut(s string) string { return ansi.Truncate(s, m.width, "…") }

// sides is a line with something at its right end.
func (m Model) sides(left, right string) string {
	room := m.width - ansi.StringWidth(right) - 1
	left = ansi.Truncate(left, max(room, 0), "…")
	return left + strings.Repeat(" ", max(m.width-ansi.StringWidth(left)-ansi.StringWidth(right), 1)) + right
}

func (m Model) keys() string {
	keys := "↑↓ select  enter waiters  e ephemeral  s order  p pause  q quit"
	if m.paused {
		return "PAUSED  " + keys
	}
	return keys
}

func (m Model) head(t Theme) []string {
	s := m.frame.Status
	role := s.Role
	if s.Storage != "" {
		role += " on " + s.Storage
	}
	title := m.sides(fmt.Sprintf("kahu top  %s  %s  %s  up %s", printable(s.Host), role, s.Version, round(s.UptimeMS)), m.frame.At.Format(time.TimeOnly))
	r := m.frame.Report
	color := map[diagnosis.Verdict]func(string) string{diagnosis.Healthy: t.Good, diagnosis.Degraded: t.Warn, diagnosis.Down: t.Bad}[r.Verdict]
	verdict, do := string(r.Verdict)+": "+r.Summary, ""
	if len(r.Problems) > 0 {
		if r.Verdict != diagnosis.Down {
			verdict = string(r.Verdict) + ": " + r.Problems[0].What
		}
		do = "  to do: " + r.Problems[0].Do
	} else if len(r.Notices) > 0 {
		do = "  notice: " + r.Notices[0].What
	}
	rates := "requests: two looks are needed"
	if x := m.rates; x.Known {
		rates = fmt.Sprintf("requests %s/s  failed %s/s  p50 %s  p99 %s  renewals %s/s p99 %s",
			number(x.Requests), number(x.Failed), seconds(x.P50), seconds(x.P99), number(x.Renewals), seconds(x.RenewP99))
	}
	state := fmt.Sprintf("holds here %d held, %d waiting, %d at risk", s.Holds.Held, s.Holds.Queued, s.Holds.AtRisk)
	if v := s.Voter; v != nil {
		state += fmt.Sprintf("   raft term %d, applied %d", v.Term, v.AppliedIndex)
		if m.rates.Known {
			state += " (+" + number(m.rates.Applied) + "/s)"
		}
	}
	return []string{t.Title(title), color(m.cut(verdict)), m.cut(do), m.cut(rates), m.cut(state)}
}

// members lists who takes part, and never takes more than a third of the screen.
func (m Model) members(t Theme) []string {
	all, leader := m.frame.Members, m.frame.leader()
	shown := min(len(all), maxMembers, max(m.height/3-1, 1))
	row := m.columns(16, 12, 9, 9, 0)
	lines := []string{t.Head(row(fmt.Sprintf("MEMBERS %d", len(all)), "ROLE", "STATE", "VERSION", "ADDRESS"))}
	for i, one := range all[:shown] {
		if i == shown-1 && shown < len(all) {
			lines = append(lines, t.Faint(m.cut(fmt.Sprintf("  and %d more: kahu cluster members", len(all)-i))))
			break
		}
		role := one.Role
		if one.Node == leader {
			role = "leader"
		}
		state, color := "alive", func(s string) string { return s }
		if !one.Alive && !one.Self {
			state, color = "silent", t.Faint
			if one.Role == wire.MemberVoter {
				color = t.Bad
			}
		}
		mark := "  "
		if one.Self {
			mark = "* "
		}
		lines = append(lines, color(row(mark+printable(cmp.Or(one.Host, one.Node[:min(len(one.Node), 8)])), printable(role), state, printable(one.Version), printable(one.Address))))
	}
	return lines
}

// columns returns what lays out rows in columns of these widths; the last one has
// what is left of the line.
func (m Model) columns(widths ...int) func(cells ...string) string {
	return func(cells ...string) string {
		var b strings.Builder
		for i, c := range cells {
			if i == len(cells)-1 {
				b.WriteString(c)
				break
			}
			c = ansi.Truncate(c, widths[i]-1, "…")
			b.WriteString(c + strings.Repeat(" ", widths[i]-ansi.StringWidth(c)))
		}
		return m.cut(b.String())
	}
}

// room is how many locks there is room for, without waiters.
func (m Model) room() int {
	used := headLines + len(m.members(Plain())) + 1 + 1 // header of the locks, keys
	if m.waiters {
		used += m.waiterLines()
	}
	return max(m.height-used, 1)
}

// waiterLines is how many lines the selected lock's waiters take.
func (m Model) waiterLines() int {
	l := m.frame.Lock
	if !m.waiters || l == nil || l.Name != m.selected {
		return 0
	}
	n := min(len(l.Queue), maxWaiters)
	if int(l.QueueLength) > n {
		n++
	}
	return max(n, 1)
}

func (m Model) lockLines(t Theme) []string {
	table := "LOCKS"
	if m.ephemeral {
		table = "EPHEMERAL LOCKS"
	}
	more := ""
	if m.frame.MoreLocks {
		more = "+"
	}
	width := max(m.width-(26+8+9+8), 12)
	row := m.columns(width, 26, 8, 9, 0)
	lines := []string{t.Head(row(fmt.Sprintf("%s %d%s", table, len(m.frame.Locks), more), "HOLDER", "TOKEN", "LEFT", "WAITING"))}
	locks := m.locks()
	switch {
	case m.frame.LocksProblem != "":
		return append(lines, t.Faint(m.cut("  not known: "+m.frame.LocksProblem)))
	case len(locks) == 0:
		return append(lines, t.Faint("  none is held"))
	}
	for _, l := range locks[m.offset:min(m.offset+m.room(), len(locks))] {
		mark, color := "  ", func(s string) string { return s }
		if l.Name == m.selected {
			mark, color = "> ", t.Selected
		}
		waiting := "-"
		if l.QueueLength > 0 {
			waiting = strconv.Itoa(int(l.QueueLength))
		}
		lines = append(lines, color(row(mark+printable(l.Name), holder(l.Holder), strconv.FormatInt(l.Token, 10), round(l.RemainingMS), waiting)))
		if l.Name == m.selected {
			lines = append(lines, m.queue(t)...)
		}
	}
	return lines
}

// queue are the waiters of the selected lock.
func (m Model) queue(t Theme) []string {
	if m.waiterLines() == 0 {
		return nil
	}
	l := m.frame.Lock
	if l.QueueLength == 0 {
		text := "     nobody waits"
		if l.Holder.Reason != "" {
			text += "; held for: " + printable(l.Holder.Reason)
		}
		return []string{t.Faint(m.cut(text))}
	}
	var lines []string
	for _, w := range l.Queue[:min(len(l.Queue), maxWaiters)] {
		text := fmt.Sprintf("     %d. %s", w.Position, holder(w.Holder))
		if w.Holder.Reason != "" {
			text += ": " + printable(w.Holder.Reason)
		}
		lines = append(lines, t.Faint(m.cut(text)))
	}
	if rest := int(l.QueueLength) - len(lines); rest > 0 {
		lines = append(lines, t.Faint(m.cut(fmt.Sprintf("     and %d more", rest))))
	}
	return lines
}

func holder(h wire.Holder) string {
	text := cmp.Or(printable(h.Host), "-")
	if h.Command != "" {
		return text + " " + printable(h.Command)
	}
	if h.PID != 0 {
		text += " pid " + strconv.FormatInt(h.PID, 10)
	}
	return text
}

// printable shows what others chose: nothing of it may steer the terminal.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// number is a rate on a screen.
func number(n float64) string {
	switch {
	case n == 0:
		return "0"
	case n < 10:
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return strconv.FormatFloat(n, 'f', 0, 64)
}

// round is a length of time on a screen, to the second.
func round(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
