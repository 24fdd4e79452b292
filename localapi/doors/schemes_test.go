package doors_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/localapi/doors"
	"github.com/kahu-sh/kahu/localapi/token"
)

// A listener for clear text, behind a proxy that ends TLS, knows callers by their
// tokens and takes nobody else; one for TLS alone has no clear text, whoever is
// trusted.
func TestSchemes(t *testing.T) {
	var valid string
	tokens := func(s *server, c *doors.Config) {
		path := filepath.Join(s.dir, "tokens")
		var err error
		if valid, _, err = token.Create(path, token.Entry{Name: "ci", Allow: []string{"read"}}, s.clock.now()); err != nil {
			t.Fatal(err)
		}
		if c.Tokens, err = token.Open(path, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	}
	const broken = "no connection"
	for _, tc := range []struct {
		name        string
		config      func(*server, *doors.Config)
		speaks      doors.Scheme
		clear, tls  string // who somebody with the token is there
		clearNobody string // and without it
	}{
		{"clear text for tokens", tokens, doors.HTTP, "token ci", broken, "401"},
		{"TLS for tokens", tokens, doors.HTTPS, broken, "token ci", broken},
		{"clear text for everybody", everybody, doors.HTTP, "anonymous ", broken, "anonymous "},
		{"TLS for everybody", everybody, doors.HTTPS, broken, "anonymous ", broken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t, func(s *server, c *doors.Config) {
				tc.config(s, c)
				s.speaks = tc.speaks
			})
			for _, one := range []struct {
				client client
				want   string
			}{
				{client{clear: true, token: "Bearer " + valid}, tc.clear},
				{client{clear: true}, tc.clearNobody},
				{client{clear: true, token: "Bearer xxx"}, tc.clearNobody},
				{client{token: "Bearer " + valid}, tc.tls},
			} {
				c := one.client
				for _, h2 := range []bool{false, true} {
					c.h2 = h2
					code, got, err := s.rest(t, c, "/x")
					switch {
					case err != nil || code == 400: // net/http says in clear text that it wants TLS
						got = broken
					case code != 200:
						got = fmt.Sprint(code)
					}
					if got != one.want {
						t.Errorf("REST %+v: %d %q, %v, want %q", c, code, got, err, one.want)
					}
				}
				got, err := s.who(t, s.dial(t, c), c, "")
				switch status.Code(err) {
				case codes.Unauthenticated:
					got = "401"
				case codes.Unavailable:
					got = broken
				}
				if got != one.want {
					t.Errorf("gRPC %+v: %q, %v, want %q", c, got, err, one.want)
				}
			}
		})
	}
}

// Clear text where only certificates are known would be for nobody: it is refused.
func TestClearTextNeedsTokens(t *testing.T) {
	s := start(t, func(s *server, c *doors.Config) {
		path := filepath.Join(s.dir, "ca.pem")
		write(t, path, newCA(t).pem())
		var err error
		if c.ClientCA, err = doors.LoadClientCA(path, s.clock.now, c.Logger); err != nil {
			t.Fatal(err)
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.doors.Serve(ln, doors.HTTP); err == nil {
		t.Error("it serves")
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("it still listens")
	}
}
