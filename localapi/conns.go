package localapi

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// boundedListener turns connections away past MaxConns and MaxConnsPerUID.
type boundedListener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		own, _ := conn.(*caller.Conn)
		if l.server.enter(own) {
			leave := sync.OnceFunc(func() { l.server.leave(own) })
			if own != nil {
				own.OnClose(leave)
				return own, nil
			}
			return &countedConn{Conn: conn, leave: leave}, nil
		}
		l.server.turnAway(conn, own)
	}
}

// countedConn is a TCP connection.
type countedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (s *Server) enter(own *caller.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= MaxConns {
		return false
	}
	if own != nil {
		uid := own.Caller().UID
		if uid != 0 && s.perUID[uid] >= MaxConnsPerUID {
			return false
		}
		s.perUID[uid]++
	}
	s.conns++
	s.metrics.connections.Inc()
	return true
}

func (s *Server) leave(own *caller.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
	s.metrics.connections.Dec()
	if own != nil {
		uid := own.Caller().UID
		if s.perUID[uid]--; s.perUID[uid] == 0 {
			delete(s.perUID, uid)
		}
	}
}

// turnAway answers before anything was asked; whoever then asks reads it.
func (s *Server) turnAway(conn net.Conn, own *caller.Conn) {
	s.metrics.turnedAway.Inc()
	if own != nil {
		s.cfg.Logger.Info("turned away a connection: too many", "caller", own.Caller())
	}
	problem := wire.Refuse(wire.Overloaded, "too many connections; close some").Problem("")
	body, _ := json.Marshal(problem) // strings and numbers
	_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		wire.ProblemContentType, len(body), body)
	_ = conn.Close() // it is being refused
}
