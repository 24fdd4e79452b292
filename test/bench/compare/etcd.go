package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kahu-sh/kahu/test/cluster"
)

// members are three local etcd members.
type members struct {
	clients []string // host:port
	cmds    []*exec.Cmd
}

// startEtcd starts them with etcd's defaults and waits until they have a leader.
func startEtcd(ctx context.Context, binary, dir string) (*members, error) {
	ports, err := cluster.FreePorts(ctx, 6)
	if err != nil {
		return nil, err
	}
	m := &members{clients: ports[:3]}
	var initial []string
	for i, peer := range ports[3:] {
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, peer))
	}
	for i, client := range m.clients {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("etcd%d.log", i)))
		if err != nil {
			m.stop()
			return nil, err
		}
		defer log.Close() // the child has its own descriptor
		cmd := exec.Command(binary,
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("etcd%d", i)),
			"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
			"--listen-peer-urls", "http://"+ports[3+i], "--initial-advertise-peer-urls", "http://"+ports[3+i],
			"--initial-cluster", strings.Join(initial, ","), "--log-level", "error")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			m.stop()
			return nil, fmt.Errorf("starting etcd: %w", err)
		}
		m.cmds = append(m.cmds, cmd)
	}
	if _, err := m.leader(ctx); err != nil {
		m.stop()
		return nil, err
	}
	return m, nil
}

// stop kills the members and waits for them.
func (m *members) stop() {
	for _, cmd := range m.cmds {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	}
}

// leader waits for one and returns its client address. It asks etcd's own
// gRPC gateway, which every member serves as JSON.
func (m *members) leader(ctx context.Context) (string, error) {
	var leader string
	err := cluster.Wait(ctx, "etcd has a leader", func(ctx context.Context) (bool, error) {
		for _, address := range m.clients {
			id, leads, err := status(ctx, address)
			if err != nil {
				return false, err
			}
			if leads != "0" && leads == id {
				leader = address
				return true, nil
			}
		}
		return false, nil
	})
	return leader, err
}

// status returns a member's id and that of the leader it knows.
func status(ctx context.Context, address string) (id, leader string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v3/maintenance/status", bytes.NewReader([]byte("{}")))
	if err != nil {
		return "", "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	var answer struct {
		Header struct {
			Member string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return "", "", fmt.Errorf("reading etcd's status: %w", err)
	}
	return answer.Header.Member, answer.Leader, nil
}
