//go:build rocksdb

package rocksdb

/*
#include <stdlib.h>
#include <malloc.h>

static void few_arenas(void) {
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 2);
#endif
}
*/
import "C"

import (
	"os"
	"sync"
)

// fewArenas bounds how many heaps the C library keeps. It makes one for each
// thread that finds the others busy, up to eight a processor, and what RocksDB
// frees in one cannot be used in another: with a million keys of 1 KiB that is
// 60 to 80 MB more in residence (test/capacity). Go calls from any of its
// threads, so there would be many, and nothing here is faster for them.
// MALLOC_ARENA_MAX in the environment wins.
var fewArenas = sync.OnceFunc(func() {
	if os.Getenv("MALLOC_ARENA_MAX") == "" {
		C.few_arenas()
	}
})
