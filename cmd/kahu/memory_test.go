package main

import (
	"os"
	"runtime/debug"
	"testing"

	"github.com/kahu-sh/kahu/agent/config"
)

func TestMemoryLimitFollowsTheMemtableUnlessTheEnvironmentHasOne(t *testing.T) {
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	defer debug.SetGCPercent(percent)
	before := debug.SetMemoryLimit(-1) // reads it
	defer debug.SetMemoryLimit(before)
	cfg := config.Config{Limits: config.Limits{MemtableSizeBytes: 10 << 20}}

	t.Setenv("GOMEMLIMIT", "123MiB")
	limitMemory(cfg)
	if now := debug.SetMemoryLimit(-1); now != before {
		t.Errorf("the limit is %d although the environment has one; before, it was %d", now, before)
	}
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil { // t.Setenv restores it
		t.Fatal(err)
	}
	limitMemory(cfg)
	if now := debug.SetMemoryLimit(-1); now != (96+20)<<20 {
		t.Errorf("the limit is %d for a memtable of 10 MiB", now)
	}
}
