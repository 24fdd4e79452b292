package main

import (
	"os"
	"runtime/debug"

	"github.com/kahu-sh/kahu/agent/config"
)

// softMemoryBase is what the Go part of an agent needs at most beside its
// memtable: the newest log entries and those waiting to be applied, a few
// requests between voters of up to 16 MiB each, connections, and the binary's
// own. Measured with a million keys, catching up included (test/capacity).
const softMemoryBase = 96 << 20

// garbagePercent is how much garbage may be made, in percent of what lives, before
// it is collected: Go's own default. 200 saved a twentieth of the CPU time under
// load, and took an agent with a million keys on RocksDB over 600 MB.
const garbagePercent = 100

// proxyGarbagePercent is for an agent that opens no engine: Go's collector waits
// for 4 MiB times this, and what lives in a proxy is less than that.
const proxyGarbagePercent = 50

// limitMemory tells Go's collector where to become eager. By itself it lets
// garbage grow to the size of what lives, so a full memtable on its way into
// the engine would be paid for twice. It counts twice here as well, once as
// rows and once as the batch being written. The engine's own caches are C or
// outside of the heap, and bounded by themselves. It is no limit of what can be
// allocated. GOMEMLIMIT and GOGC in the environment win.
func limitMemory(cfg config.Config) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(softMemoryBase + 2*cfg.Limits.MemtableSizeBytes)
	}
	if _, set := os.LookupEnv("GOGC"); !set {
		percent := garbagePercent
		if cfg.Role == config.Proxy {
			percent = proxyGarbagePercent
		}
		debug.SetGCPercent(percent)
	}
}
