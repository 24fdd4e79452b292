package main

import (
	"fmt"
	"io"
	"time"
)

// A report writes numbers as they come, and counts those beyond their limit.
type report struct {
	out    io.Writer
	failed int
}

func (r *report) section(format string, args ...any) {
	fmt.Fprintf(r.out, "\n== "+format+"\n", args...)
}

func (r *report) note(format string, args ...any) {
	fmt.Fprintf(r.out, "   "+format+"\n", args...)
}

// limit reports a value that must not be above most.
func (r *report) limit(what, value, most string, passed bool) {
	verdict := "ok  "
	if passed {
		verdict = "FAIL"
		r.failed++
	}
	fmt.Fprintf(r.out, "%s %-58s %12s  limit %s\n", verdict, what, value, most)
}

// target reports a value beside what it should become.
func (r *report) target(what, value, want string, missed bool) {
	verdict := "met "
	if missed {
		verdict = "miss"
	}
	fmt.Fprintf(r.out, "%s %-58s %12s  target %s\n", verdict, what, value, want)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
