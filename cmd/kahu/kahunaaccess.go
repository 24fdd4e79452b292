package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// kahunaAccess is how a load shows who it is to a Kahuna listener, and what it
// believes of the other end. Secrets come from files: flags are seen by everybody
// on the host.
type kahunaAccess struct {
	tokenFile, certFile, keyFile, caFile string
	skipVerify                           bool
}

func (a *kahunaAccess) flags(f *pflag.FlagSet) {
	f.StringVar(&a.tokenFile, "kahuna-token-file", "", "with --kahuna: `file` with a bearer token of kahu token create")
	f.StringVar(&a.certFile, "kahuna-cert", "", "with --kahuna https://…: PEM `file` with a client certificate")
	f.StringVar(&a.keyFile, "kahuna-key", "", "PEM `file` with its key")
	f.StringVar(&a.caFile, "kahuna-ca", "", "with --kahuna https://…: PEM `file` that the listener's certificate must be signed by, or is")
	f.BoolVar(&a.skipVerify, "kahuna-skip-verify", false, "with --kahuna https://…: take any certificate")
}

// dial says where and how to connect for an address: "socket", or a URL.
func (a *kahunaAccess) dial(address, socket string) (where string, options []grpc.DialOption, err error) {
	if address == kahunaSocket {
		if *a != (kahunaAccess{}) {
			return "", nil, usageError("on the socket the caller is known by its user; leave out --kahuna-token-file, --kahuna-cert, --kahuna-ca and --kahuna-skip-verify")
		}
		return "unix:" + socket, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", nil, usageError(fmt.Sprintf("--kahuna is %q; it is a URL such as http://127.0.0.1:2070, or %s", address, kahunaSocket))
	}
	creds := insecure.NewCredentials()
	switch {
	case u.Scheme == "https":
		conf, err := a.tls()
		if err != nil {
			return "", nil, err
		}
		creds = credentials.NewTLS(conf)
	case a.certFile != "" || a.keyFile != "" || a.caFile != "" || a.skipVerify:
		return "", nil, usageError("--kahuna-cert, --kahuna-key, --kahuna-ca and --kahuna-skip-verify are of TLS, and " + address + " is clear text")
	case a.tokenFile != "" && !loopback(u.Hostname()):
		return "", nil, usageError("the token would travel to " + u.Host + " in clear text; write https, or go through a listener on 127.0.0.1")
	}
	options = append(options, grpc.WithTransportCredentials(creds))
	if a.tokenFile != "" {
		text, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return "", nil, withCode(exitUsage, fmt.Errorf("reading the token: %w", err))
		}
		options = append(options, grpc.WithPerRPCCredentials(bearerToken{strings.TrimSpace(string(text)), u.Scheme == "https"}))
	}
	return u.Host, options, nil
}

func (a *kahunaAccess) tls() (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: a.skipVerify} // only when asked for
	if a.caFile != "" {
		text, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("reading --kahuna-ca: %w", err))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, usageError("there is no PEM certificate in " + a.caFile)
		}
	}
	if (a.certFile == "") != (a.keyFile == "") {
		return nil, usageError("a certificate and its key belong together; give both --kahuna-cert and --kahuna-key, or neither")
	}
	if a.certFile != "" {
		pair, err := tls.LoadX509KeyPair(a.certFile, a.keyFile)
		if err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("reading the client certificate: %w", err))
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// bearerToken shows a token with each call.
type bearerToken struct {
	token string
	tls   bool
}

var _ credentials.PerRPCCredentials = bearerToken{}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + t.token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (t bearerToken) RequireTransportSecurity() bool { return t.tls }
