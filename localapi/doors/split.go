package doors

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// tlsHandshake is the first byte of every TLS connection, and of no HTTP request.
const tlsHandshake = 0x16

// splitter hands the connections of one listener to one of two, by their first
// byte. Nobody waits for a peer that says nothing: each is listened to apart.
type splitter struct {
	ln         net.Listener
	timeout    time.Duration
	clear, tls *handedListener
	done       chan struct{} // closed by close

	// mu guards what follows.
	mu      sync.Mutex
	closed  bool
	waiting map[net.Conn]struct{} // have said nothing yet
	peeking sync.WaitGroup
}

func newSplitter(ln net.Listener, timeout time.Duration) *splitter {
	done := make(chan struct{})
	handed := func() *handedListener {
		return &handedListener{addr: ln.Addr(), conns: make(chan net.Conn), done: done}
	}
	return &splitter{ln: ln, timeout: timeout, clear: handed(), tls: handed(), done: done, waiting: make(map[net.Conn]struct{})}
}

// run accepts until close, and returns why it ended.
func (s *splitter) run() error {
	defer s.peeking.Wait()
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			s.close()
			return err
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close() // it is being refused
			continue
		}
		s.waiting[conn] = struct{}{}
		s.peeking.Go(func() { s.hand(conn) }) // ends with timeout or close
		s.mu.Unlock()
	}
}

// hand waits for the first byte of conn and gives conn on.
func (s *splitter) hand(conn net.Conn) {
	in := bufio.NewReaderSize(conn, bufferBytes)
	// An error means that the connection has ended, which the read finds out.
	_ = conn.SetReadDeadline(time.Now().Add(s.timeout))
	first, err := in.Peek(1)
	_ = conn.SetReadDeadline(time.Time{})
	s.mu.Lock()
	delete(s.waiting, conn)
	s.mu.Unlock()
	if err != nil {
		_ = conn.Close() // it said nothing
		return
	}
	to := s.clear
	if first[0] == tlsHandshake {
		to = s.tls
	}
	select {
	case to.conns <- &bufferedConn{Conn: conn, in: in}:
	case <-s.done:
		_ = conn.Close() // it is being refused
	}
}

// close ends run and the two listeners. It may be called more than once.
func (s *splitter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	_ = s.ln.Close() // nothing was promised to who comes now
	for conn := range s.waiting {
		_ = conn.Close() // ends its read
	}
}

// handedListener accepts what a splitter gives it.
type handedListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
}

// Accept implements net.Listener.
func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; the splitter's close is what ends it.
func (l *handedListener) Close() error { return nil }

// Addr implements net.Listener.
func (l *handedListener) Addr() net.Addr { return l.addr }

// bufferBytes is what one read from the kernel takes at most: some tens of frames.
// net/http reads each frame of HTTP/2 with two reads of its own, which was a fifth
// of the CPU time of a batch stream in clear text.
const bufferBytes = 8 << 10

// bufferedConn reads ahead.
type bufferedConn struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn. It is for one goroutine at a time, as net/http does.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.in.Read(p) }
