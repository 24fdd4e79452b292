package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// check reads the ledger's file and judges the whole run.
func (s *story) check() error {
	entries, err := readLedger(filepath.Join(s.dir, "ledger.jsonl"))
	if err != nil {
		return err
	}
	v := judge(entries, inputLines())
	fmt.Println()
	row := func(ok bool, format string, args ...any) {
		mark := "ok  "
		if !ok {
			mark = "FAIL"
		}
		fmt.Printf("  %s  %s\n", mark, fmt.Sprintf(format, args...))
	}
	row(v.once, "%d of %d lines invoiced exactly once", v.invoiced, len(inputLines()))
	row(v.unique, "invoice numbers unique%s", map[bool]string{true: ", and 1 to " + fmt.Sprint(len(entries)) + " without a gap", false: ""}[v.gapless])
	row(v.rising, "fencing tokens only rose, from %d to %d", v.firstToken, v.lastToken)
	row(true, "no two owners lived at once (each job takes a file lock that only a dead one frees)")
	row(true, "%-12s from the holder's death to the next holder's first step", round(s.handOver))
	row(true, "%-12s without a leader, as a client of the proxy saw it", round(s.withoutLeader))
	fmt.Println()
	for _, w := range s.crew.workers {
		fmt.Printf("  %-16s %3d invoices%s\n", w.name, v.perWorker[w.name], w.troubles())
	}
	fmt.Println()
	if !v.once || !v.unique || !v.rising {
		return errors.New("the ledger is wrong; see the lines marked FAIL")
	}
	s.say("all checks held")
	return nil
}

// troubles are the ends of kahu exec without a job done, for the summary.
func (w *worker) troubles() string {
	var texts []string
	for code, n := range w.codes {
		if code != 0 && code != exitAllDone {
			texts = append(texts, fmt.Sprintf("%d × exit %d (%s)", n, code, firstLine(w.said[code])))
		}
	}
	if len(texts) == 0 {
		return ""
	}
	slices.Sort(texts)
	return "; also " + strings.Join(texts, ", ")
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if s == "" {
		return "killed"
	}
	return s
}

// A verdict is what the ledger proves.
type verdict struct {
	once, unique, gapless, rising bool
	invoiced                      int
	firstToken, lastToken         int64
	perWorker                     map[string]int
}

// judge compares the ledger with the input.
func judge(entries []entry, lines []string) verdict {
	v := verdict{unique: true, gapless: true, rising: true, firstToken: -1, lastToken: -1, perWorker: map[string]int{}}
	times := map[string]int{}
	numbers := map[int64]bool{}
	for i, e := range entries {
		times[e.Line]++
		if numbers[e.Number] {
			v.unique = false
		}
		numbers[e.Number] = true
		if i == 0 {
			v.firstToken = e.Token
		} else if e.Token <= v.lastToken {
			v.rising = false
		}
		v.lastToken = e.Token
		v.perWorker[e.Worker]++
	}
	for n := int64(1); n <= int64(len(entries)); n++ {
		v.gapless = v.gapless && numbers[n]
	}
	for _, line := range lines {
		if times[line] == 1 {
			v.invoiced++
		}
	}
	v.once = v.invoiced == len(lines) && len(entries) == len(lines)
	return v
}

// readLedger reads the file back.
func readLedger(path string) ([]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	defer f.Close()
	var entries []entry
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return entries, lines.Err()
		}
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("ledger line %d: %w", len(entries)+1, err)
		}
		entries = append(entries, e)
	}
}
