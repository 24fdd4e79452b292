package localapi

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// Handler is what serves the socket.
func (s *Server) Handler() http.Handler { return s.unix.Handler }

// AsMe makes a context as of a connection from this process.
func (s *Server) AsMe(ctx context.Context) context.Context {
	me.Do(func() {
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: "", Net: "unix"})
		if err != nil {
			panic(err)
		}
		defer ln.Close()
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		accepted, err := ln.AcceptUnix()
		if err != nil {
			panic(err)
		}
		if myConn, err = caller.NewConn(accepted); err != nil {
			panic(err)
		}
	})
	return caller.ConnContext(ctx, myConn)
}

// Row is a row of the route table, for tests that walk it.
type Row struct {
	Name, Method, Path, Action, Access string
	Verb                               policy.Verb
	Named, Prefix                      bool
}

// Table is the route table.
func (s *Server) Table() []Row {
	var out []Row
	for _, r := range s.routes {
		out = append(out, Row{Name: r.name, Method: r.method, Path: r.path, Action: r.action, Access: string(r.access),
			Verb: r.verb, Named: r.named, Prefix: r.access == onPrefix})
	}
	return out
}

var (
	me     sync.Once
	myConn *caller.Conn
)

// CountConns pretends that so many more connections are open, of uid as well.
func (s *Server) CountConns(uid uint32, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns += n
	s.perUID[uid] += n
}
