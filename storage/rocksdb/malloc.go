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

static void large_blocks_apart(int bytes) {
#ifdef M_MMAP_THRESHOLD
	mallopt(M_MMAP_THRESHOLD, bytes);
#endif
}
*/
import "C"

import (
	"os"
	"sync"
)

// fewArenas bounds how many heaps the C library keeps, and what it keeps in them. It makes one for each
// thread that finds the others busy, up to eight a processor, and what RocksDB
// frees in one cannot be used in another: with a million keys of 1 KiB that is
// 60 to 80 MB more in residence (test/capacity). Go calls from any of its
// threads, so there would be many, and nothing here is faster for them.
// MALLOC_ARENA_MAX in the environment wins.
var fewArenas = sync.OnceFunc(func() {
	if os.Getenv("MALLOC_ARENA_MAX") == "" {
		C.few_arenas()
	}
	if os.Getenv("MALLOC_MMAP_THRESHOLD_") == "" {
		C.large_blocks_apart(largeBlockBytes)
	}
})

// largeBlockBytes is from which size on a block is mapped by itself, and given back
// when it is freed. Left alone, the C library raises the size with the first such
// block that is freed, up to 32 MiB: then the write buffers' blocks of 2 MiB, what a
// compaction reads ahead, and batches lie in the heaps, full of holes, for ever.
// MALLOC_MMAP_THRESHOLD_ in the environment wins.
const largeBlockBytes = 512 << 10
