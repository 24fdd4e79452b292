package caller_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
)

// Reading ahead on HTTP/2 changes no byte, whatever the sizes of reads and writes,
// and descriptors that come with them still are collected, to be closed.
func TestHTTP2IsReadAhead(t *testing.T) {
	for _, preface := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"} {
		from, c := pair(t)
		rnd := rand.New(rand.NewPCG(1, 2))
		sent := []byte(preface)
		for range 200_000 {
			sent = append(sent, byte(rnd.Uint32()))
		}
		_, read := pipes(t, 1)
		pass(t, from, string(sent[:100]), read)
		go func() {
			for rest := sent[100:]; len(rest) > 0; {
				n := min(len(rest), 1+rnd.IntN(3000))
				if _, err := from.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			from.Close()
		}()
		var got []byte
		for buf, sizes := make([]byte, 20_000), rand.New(rand.NewPCG(3, 4)); ; {
			n, err := c.Read(buf[:1+sizes.IntN([]int{9, 300, len(buf) - 1}[sizes.IntN(3)])])
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%.10q…: %d bytes came of %d, or others", preface, len(got), len(sent))
		}
		files, err := c.TakeFiles()
		if err != nil || len(files) != 1 {
			t.Errorf("%d descriptors came, %v", len(files), err)
		}
		for _, f := range files {
			f.Close()
		}
	}
}

// A peer that goes away with our bytes unread resets the connection. The kernel's
// -1 for that must not reach a reader that counts: it ended the agent.
func TestResetIsAnError(t *testing.T) {
	for _, preface := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"} {
		from, c := pair(t)
		if _, err := from.Write([]byte(preface)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(preface))
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("never read")); err != nil {
			t.Fatal(err)
		}
		from.Close()
		if n, err := c.Read(buf); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.10q…: %d bytes, %v", preface, n, err)
		}
	}
}
