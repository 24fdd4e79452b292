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
	Load           string       `json:"load"`
	Callers        int          `json:"callers"`
	Side           string       `json:"side"`
	UnflushedBytes int64        `json:"unflushed_bytes"` // most of any voter when the load ended
	Result         *load.Result `json:"result"`
}

// A report is all rows.
type report struct {
	rows []row
}

// add keeps a row, and says so on the way.
func (r *report) add(s shape, side string, result *load.Result, unflushed int64) {
	r.rows = append(r.rows, row{s.name, s.callers, side, unflushed, result})
	fmt.Fprintf(os.Stderr, "%-12s %-5s %4d callers  %9.0f/s  p50 %-9s p99 %-9s errors %d\n", side, s.name, s.callers,
		result.PerSecond, micros(result.LatencyUS.P50), micros(result.LatencyUS.P99), result.Errors)
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
	fmt.Fprintln(t, "load\tcallers\tkahu/s\tp50\tp99\thttp/s\tp50\tetcd/s\tp50\tp99\tkahu:etcd\thttp:etcd\tunflushed\t")
	for _, s := range p.loads {
		stream, http, etcd := r.find(s, sideStream), r.find(s, sideHTTP), r.find(s, sideEtcd)
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", s.name, s.callers,
			stream.perSecond(), stream.p50(), stream.p99(), http.perSecond(), http.p50(),
			etcd.perSecond(), etcd.p50(), etcd.p99(), ratio(stream, etcd), ratio(http, etcd), stream.unflushed())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.rows {
		for text, n := range row.Result.ErrorTexts {
			fmt.Fprintf(w, "%s %s at %d callers: %d errors: %s\n", row.Side, row.Load, row.Callers, n, text)
		}
	}
	return nil
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
	return fmt.Sprintf("%.1f", ours.Result.PerSecond/theirs.Result.PerSecond)
}

func micros(us int64) string { return (time.Duration(us) * time.Microsecond).String() }
