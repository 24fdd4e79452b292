package localapi_test

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors that come with a request which takes none do not stay open for as
// long as the connection.
func TestDescriptorsNobodyAskedForAreClosed(t *testing.T) {
	a := startAgent(t)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := []byte("GET /kahu/v1/health/live HTTP/1.1\r\nHost: kahu\r\n\r\n")
	if _, _, err := conn.WriteMsgUnix(head, unix.UnixRights(int(w.Fd()), int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 200 || res.Close {
		t.Fatalf("%+v, %v", res, err)
	}
	defer res.Body.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("the agent keeps what was passed: %v", err)
	}
}
