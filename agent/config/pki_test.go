package config_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent/config"
)

func TestOwnPKI(t *testing.T) {
	cert, key, ca := write(t, "c", ""), write(t, "k", ""), write(t, "a", "")
	got, err := config.Load(host(t), flags(t, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca, "--tls-voter-name", "spiffe://example.org/kahu/voter"))
	if err != nil {
		t.Fatal(err)
	}
	want := config.PKI{Cert: cert, Key: key, CA: ca, VoterName: "spiffe://example.org/kahu/voter", ProxyName: "kahu-proxy"}
	if got.PKI != want || !got.PKI.On() {
		t.Errorf("%+v, want %+v", got.PKI, want)
	}
	// By systemd's credentials.
	dir := filepath.Dir(write(t, "kahu-tls-cert", ""))
	h := host(t)
	h.Environ = append(h.Environ, "CREDENTIALS_DIRECTORY="+dir)
	_, err = config.Load(h, flags(t))
	if err == nil || !strings.Contains(err.Error(), "tls-key: an own PKI needs tls-cert, tls-key and tls-ca") || !strings.Contains(err.Error(), "tls-ca: ") {
		t.Errorf("one credential of three: %v", err)
	}
	if got, err = config.Load(host(t), flags(t)); err != nil || got.PKI.On() {
		t.Errorf("without any: %+v, %v", got.PKI, err)
	}
}

func TestRefusedPKI(t *testing.T) {
	file := write(t, "c", "")
	for args, says := range map[string]string{
		"--tls-accept-secret": "no own PKI beside which",
		"--tls-crl " + file:   "for certificates of an own PKI",
		"--tls-cert " + file + " --tls-key " + file + " --tls-ca " + file + " --tls-crl /nowhere/crl": "tls-crl (from --tls-crl): cannot read it",
		"--tls-cert " + file: "tls-key: an own PKI needs",
		"--tls-cert " + file + " --tls-key " + file + " --tls-ca /nowhere/ca": "tls-ca (from --tls-ca): cannot read it",
		"--tls-proxy-name KAHU-voter":                                         "could vote",
		"--tls-voter-name *.example.org":                                      "not a DNS name without wildcards",
		"--tls-voter-name spiffe://":                                          "not a URI",
		"--tls-voter-name=":                                                   "anybody with a certificate",
		"--dev --tls-cert " + file:                                            "leave out tls-cert or --dev",
		"--tls-voter-name spiffe://a%zz/voter":                                "not a URI",
		"--tls-proxy-name " + "x\u00e4":                                       "not a DNS name",
		"--tls-proxy-name spiffe://example/ä b":                               "not a URI",
	} {
		_, err := config.Load(host(t), flags(t, strings.Fields(args)...))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", args, err, says)
		}
	}
}
