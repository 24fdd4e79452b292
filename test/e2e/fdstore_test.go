package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// storing is systemd's end of the notify socket, with its descriptor store.
type storing struct {
	path string
	conn *net.UnixConn

	mu    sync.Mutex
	files map[string]*os.File // by FDNAME
	done  chan struct{}
}

func newStoring(t *testing.T) *storing {
	t.Helper()
	s := &storing{path: filepath.Join(t.TempDir(), "notify"), files: map[string]*os.File{}, done: make(chan struct{})}
	var err error
	if s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go s.run() // ends with the connection
	t.Cleanup(func() {
		s.conn.Close()
		<-s.done
		for _, f := range s.files {
			f.Close()
		}
	})
	return s
}

func (s *storing) run() {
	defer close(s.done)
	b, oob := make([]byte, 4096), make([]byte, 256)
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(b[:n])) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			fields[key] = value
		}
		s.mu.Lock()
		switch name := fields["FDNAME"]; {
		case fields["FDSTORE"] == "1":
			messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
			for i := range messages {
				fds, _ := unix.ParseUnixRights(&messages[i])
				for _, fd := range fds {
					s.files[name] = os.NewFile(uintptr(fd), name)
				}
			}
		case fields["FDSTOREREMOVE"] == "1" && s.files[name] != nil:
			s.files[name].Close()
			delete(s.files, name)
		}
		s.mu.Unlock()
	}
}

// stored is how many descriptors there are.
func (s *storing) stored() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files)
}

// start starts cmd with what is in the store; nothing is taken out meanwhile.
func (s *storing) start(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, f := range s.files {
		names, cmd.ExtraFiles = append(names, name), append(cmd.ExtraFiles, f)
	}
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return cmd.Start()
}

// An agent in a pid namespace of its own, as in a container, cannot find the
// processes of its holders again by their pids. Systemd's store has their pidfds: the
// next agent sees at once that a guard and all of its tree have died meanwhile. Without
// the store it would give them a lease to come back, a minute here.
func TestPidfdsOutliveTheAgentInTheStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a pid namespace needs root")
	}
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			systemd, dir := newStoring(t), t.TempDir()
			socket := filepath.Join(dir, "kahu.sock")
			ports, err := cluster.FreePorts(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			start := func() *exec.Cmd {
				cmd := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
					"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", binary, "agent", "--data-dir", filepath.Join(dir, "data"), "--allow-volatile", "--socket", socket, "--bind", ports[0], "--gossip", "off")
				cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+systemd.path)
				begin := cmd.Start
				if stored {
					begin = func() error { return systemd.start(cmd) }
				}
				if err := begin(); err != nil {
					t.Fatal(err)
				}
				return cmd
			}
			stop := func(cmd *exec.Cmd) {
				_ = cmd.Process.Kill() // and the agent with it: --kill-child
				_ = cmd.Wait()
			}
			agent := start()
			t.Cleanup(func() { stop(agent) })
			c := client.New(client.Options{Socket: socket})
			t.Cleanup(func() { c.Close() })
			wait := func(what string, done func() bool) {
				t.Helper()
				ctx := bounded(t, 30*time.Second)
				if err := cluster.Wait(ctx, what, func(context.Context) (bool, error) { return done(), nil }); err != nil {
					t.Fatal(err)
				}
			}
			ready := func() bool {
				s, err := c.Status(t.Context())
				return err == nil && s.Ready
			}
			wait("a quorum of one", ready)
			guard := exec.CommandContext(t.Context(), binary, "exec", "--socket", socket, "--lock", "job", "--ttl", "60s", "--contain", "pidns", "--", "sleep", "600")
			guard.SysProcAttr = &unix.SysProcAttr{Setsid: true}
			if err := guard.Start(); err != nil {
				t.Fatal(err)
			}
			held := func() bool {
				_, err := c.LockInfo(t.Context(), "job", client.LockOptions{})
				return err == nil
			}
			wait("the lock and its pidfds in the store", func() bool {
				return held() && systemd.stored() > 0
			})
			stop(agent)
			// Nobody is there to see it: the face, its keeper and its init.
			tree := openPidfds(t, append([]int{guard.Process.Pid}, descendants(t, guard.Process.Pid)...))
			signalAll(tree, unix.SIGKILL)
			_ = guard.Wait()
			allDead(t, tree)
			agent = start()
			wait("the agent to serve again", ready)
			if stored {
				wait("the lock to be free", func() bool { return !held() })
				wait("the store to be empty", func() bool { return systemd.stored() == 0 })
				return
			}
			if !held() {
				t.Error("without the store the lock is free at once: the test proves nothing")
			}
		})
	}
}
