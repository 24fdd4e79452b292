package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
)

// The sides.
const (
	sideStream = "kahu"
	sideHTTP   = "kahu --http"
	sideEtcd   = "etcd"
)

// A row is one load on one side.
type row struct {
	Load           string        `json:"load"`
	Callers        int           `json:"callers"`
	Side           string        `json:"side"`
	UnflushedBytes int64         `json:"unflushed_bytes"` // most of any voter when the load ended
	CPU            time.Duration `json:"cpu_ns"`          // of members and client, for one operation
	Result         *load.Result  `json:"result"`
}

// A report is all rows.
type report struct {
	rows []row
}

// add keeps a row, and says so on the way.
func (r *report) add(one row) {
	r.rows = append(r.rows, one)
	fmt.Fprintf(os.Stderr, "%-12s %-6s %4d callers  %9.0f/s  p50 %-9s p99 %-9s CPU %-9s errors %d\n", one.Side, one.Load, one.Callers,
		one.Result.PerSecond, micros(one.Result.LatencyUS.P50), micros(one.Result.LatencyUS.P99), one.cpu(), one.Result.Errors)
}

// find returns the row, or nil.
func (r *report) find(s shape, side string) *row {
	for i := range r.rows {
		if r.rows[i].Load == s.name && r.rows[i].Callers == s.callers && r.rows[i].Side == side {
			return &r.rows[i]
		}
	}
	return nil
}

// write prints the sides beside each other.
func (r *report) write(w io.Writer, p plan) error {
	fmt.Fprintf(w, "\nthree members each, %d B values, %d keys, %d connection(s), fsync on, %s a load\n\n", p.valueBytes, p.keys, p.connections, p.duration)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "load\tcallers\tkahu/s\tp50\tp99\tCPU\thttp/s\tp50\tetcd/s\tp50\tp99\tCPU\tkahu:etcd\thttp:etcd\tunflushed\t")
	for _, s := range p.loads {
		stream, http, etcd := r.find(s, sideStream), r.find(s, sideHTTP), r.find(s, sideEtcd)
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", s.name, s.callers,
			stream.perSecond(), stream.p50(), stream.p99(), stream.cpu(), http.perSecond(), http.p50(),
			etcd.perSecond(), etcd.p50(), etcd.p99(), etcd.cpu(), ratio(stream, etcd), ratio(http, etcd), stream.unflushed())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	r.writeCounter(w, p)
	for _, row := range r.rows {
		for text, n := range row.Result.ErrorTexts {
			fmt.Fprintf(w, "%s %s at %d callers: %d errors: %s\n", row.Side, row.Load, row.Callers, n, text)
		}
	}
	return nil
}

// writeCounter says what a hot counter costs: beside sets of different keys, where
// nothing is contended for, and beside etcd's STM on the same counter.
func (r *report) writeCounter(w io.Writer, p plan) {
	for _, s := range p.loads {
		counter, stm := r.find(s, sideStream), r.find(s, sideEtcd)
		puts := r.find(shape{"put", s.callers}, sideStream)
		if s.name != "script" || counter == nil {
			continue
		}
		fmt.Fprintf(w, "a counter that %d callers increment by script: %s times the rate of plain sets (%s the CPU), %s times that of etcd's STM (%s the CPU)\n",
			s.callers, ratio(counter, puts), cpuRatio(counter, puts), ratio(counter, stm), cpuRatio(counter, stm))
	}
}

// cpu is the CPU time of one operation.
func (r *row) cpu() string {
	if r == nil || r.CPU == 0 {
		return "-"
	}
	return r.CPU.Round(100 * time.Nanosecond).String()
}

func cpuRatio(ours, theirs *row) string {
	if ours == nil || theirs == nil || theirs.CPU == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", float64(ours.CPU)/float64(theirs.CPU))
}

func (r *row) perSecond() string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f", r.Result.PerSecond)
}

func (r *row) p50() string {
	if r == nil {
		return "-"
	}
	return micros(r.Result.LatencyUS.P50)
}

func (r *row) p99() string {
	if r == nil {
		return "-"
	}
	return micros(r.Result.LatencyUS.P99)
}

func (r *row) unflushed() string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(r.UnflushedBytes)/(1<<20))
}

// ratio is ours over theirs.
func ratio(ours, theirs *row) string {
	if ours == nil || theirs == nil || theirs.Result.PerSecond == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ours.Result.PerSecond/theirs.Result.PerSecond)
}

func micros(us int64) string { return (time.Duration(us) * time.Microsecond).String() }
