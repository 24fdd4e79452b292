package agent_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent"
)

// residentOfFiles is how much of this process is mapped from files, in kB.
func residentOfFiles(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssFile:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not say how much is mapped from files")
	return 0
}

// What the start has touched is given back, and the program goes on: what is used
// again comes from its file.
func TestForgetStart(t *testing.T) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), " r-xp ") {
		t.Skip("no mapping of a program is shown")
	}
	before := residentOfFiles(t)
	if err := agent.ForgetStart(true); err != nil {
		t.Fatal(err)
	}
	if after := residentOfFiles(t); after >= before {
		t.Errorf("%d kB of files are mapped, %d were before", after, before)
	}
	// What comes back with one page, from a file in large folios, ends with its mapping.
	largest, most, err := agent.LargestGivenBack()
	if err != nil || largest == 0 || largest > most {
		t.Errorf("one use of the program may map %d bytes of it, more than %d: %v", largest, most, err)
	}
}

// Only what is read-only, of the program or a library, and was never written to is
// given back.
func TestMappingsGivenBack(t *testing.T) {
	const smaps = `00400000-00412000 r-xp 00000000 fe:00 1234                               /usr/bin/kahu
Rss:                  72 kB
Anonymous:             0 kB
00412000-00413000 r--p 00012000 fe:00 1234                               /usr/bin/kahu
Anonymous:             4 kB
00413000-00414000 rw-p 00013000 fe:00 1234                               /usr/bin/kahu
Anonymous:             0 kB
00414000-00415000 r--s 00000000 fe:00 99                                 /var/lib/kahu/log
Anonymous:             0 kB
7fff0000-7fff2000 r-xp 00000000 00:00 0                                  [vdso]
Anonymous:             0 kB
7ffd3000-7ffd4000 r--p 00000000 fe:00 77                                 /usr/lib/libz.so.1.2
Anonymous:             0 kB
7ffe3000-7ffe4000 r--p 00000000 fe:00 78                                 /var/lib/kahu/mapped
Anonymous:             0 kB
7fff3000-7fff4000 r--p 00000000 00:00 0 
Anonymous:             0 kB
VmFlags: rd mr
`
	path := t.TempDir() + "/smaps"
	if err := os.WriteFile(path, []byte(smaps), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := agent.GivenBack(path)
	if err != nil || !slices.Equal(got, []uintptr{0x400000, 0x7ffd3000}) {
		t.Errorf("%x, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("zz-1 r-xp 0 0 0 /x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.GivenBack(path); err == nil {
		t.Error("nonsense was read")
	}
}
