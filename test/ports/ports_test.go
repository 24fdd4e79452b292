package ports

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// helper is set in the process that stands for another test.
const helper = "KAHU_TEST_PORTS_HELPER"

func TestNoTwoProcessesHaveOnePort(t *testing.T) {
	few := func(host string, n int) ([]string, error) { return take(t.Context(), host, first, first+8, n) }
	if host := os.Getenv(helper); host != "" {
		mine, err := few(host, 4)
		fmt.Println("took", strings.Join(mine, " "), err)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the other has seen enough
		return
	}
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), rand.IntN(250)) // nobody else's
	cmd := exec.Command(os.Args[0], "-test.run", t.Name())
	cmd.Env = append(os.Environ(), helper+"="+host)
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "took 127.") {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	theirs := strings.Fields(line)[1:5]
	mine, err := few(host, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range mine {
		if slices.Contains(theirs, address) {
			t.Errorf("two processes have %s", address)
		}
	}
	if more, err := few(host, 1); err == nil {
		t.Errorf("%s is taken, and given", more)
	}
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its end is all that counts
	again, err := few(host, 4)
	if err != nil {
		t.Fatalf("what the other process had is not free after its end: %v", err)
	}
	// And they can be listened on.
	for _, address := range append(mine, again...) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
