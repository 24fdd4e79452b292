package cloud

import (
	"net"
	"net/http"
	"os"
	"time"
)

// complete fills in what is real.
func (e *Environment) complete() {
	if e.Client == nil {
		e.Client = plainClient()
	}
	if e.Getenv == nil {
		e.Getenv = os.Getenv
	}
	if e.ReadFile == nil {
		e.ReadFile = os.ReadFile
	}
	if e.Metadata == "" {
		e.Metadata = "http://169.254.169.254"
	}
	if e.Now == nil {
		e.Now = time.Now
	}
}

// plainClient keeps no connections: a list is asked for twice a minute.
func plainClient() *http.Client {
	return &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 15 * time.Second,
			DisableKeepAlives:     true,
		},
		// A token must not follow a redirect elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// api is the address of the cloud's API, unless a test replaced it.
func (e *Environment) api(real string) string {
	if e.API != "" {
		return e.API
	}
	return real
}
