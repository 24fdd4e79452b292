package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
)

// Kahuna is where and how the wire of Kahuna's clients is spoken over TCP.
type Kahuna struct {
	// Listen is where to listen, without duplicates; none: only the socket speaks it.
	Listen []KahunaListen
	// Cert and Key are the files of the server's certificate, absolute; empty: the
	// agent makes one.
	Cert, Key string
	// ClientCA and TokenFile are files, absolute: who is trusted. One of them is
	// there, or Insecure, when Listen is.
	ClientCA, TokenFile string
	// Insecure takes everybody who connects.
	Insecure bool
	// Advertise is the URL that hints name, empty for no hints. Its port is 0 when
	// it is only known after listening.
	Advertise string
	Limits    KahunaLimits
}

// KahunaListen is one listener.
type KahunaListen struct {
	// Scheme is empty, for TLS and with Insecure clear text beside it, or "https" or
	// "http" for that alone.
	Scheme string
	// Address is HOST:PORT. An empty HOST is every address, port 0 any that is free.
	Address string
}

// String is how it is written in the file.
func (l KahunaListen) String() string {
	if l.Scheme == "" {
		return l.Address
	}
	return l.Scheme + "://" + l.Address
}

// clear reports whether clear text is spoken there.
func (l KahunaListen) clear(insecure bool) bool {
	return l.Scheme == "http" || l.Scheme == "" && insecure
}

// KahunaLimits are those of the listeners (localapi/doors), and of the wire itself
// (localapi/kahuna, localapi/grpchttp).
type KahunaLimits struct {
	Connections           int
	ConnectionsPerAddress int
	Requests              int
	StreamsPerConnection  int
	BatchStreams          int
	InFlightPerStream     int
	MessageSizeBytes      int64 // 0: what suits the largest value
	UnreadSizeBytes       int64
	Header, Idle          time.Duration
	Silence, Unread       time.Duration
}

// kahunaPorts are Kahuna's own: REST, REST under TLS, and gRPC in clear text. Here
// each of them takes everything.
var kahunaPorts = []string{"2070", "2071", "2072"}

// kahunaDefault is the word for them in kahuna-listen.
const kahunaDefault = "default"

// kahuna checks everything about the Kahuna wire over TCP. It needs addresses,
// policy and limits to be checked.
func (c *checker) kahuna() {
	k := &c.cfg.Kahuna
	k.Insecure = c.f.KahunaInsecure
	for _, one := range c.f.KahunaListen {
		ports, host := []string{one}, ""
		switch _, err := strconv.ParseUint(one, 10, 64); {
		case one == kahunaDefault:
			ports = kahunaPorts
		case err != nil:
			scheme, address := "", one
			for _, s := range []string{"http", "https"} {
				if rest, ok := strings.CutPrefix(one, s+"://"); ok {
					scheme, address = s, strings.TrimSuffix(rest, "/")
				}
			}
			c.kahunaListen(scheme, address)
			continue
		}
		if k.Insecure {
			host = "127.0.0.1" // nobody else, before somebody asked for it
		}
		for _, port := range ports {
			c.kahunaListen("", net.JoinHostPort(host, port))
		}
	}
	k.Cert, k.Key = c.kahunaFile("kahuna-tls-cert", c.f.KahunaTLSCert), c.kahunaFile("kahuna-tls-key", c.f.KahunaTLSKey)
	k.ClientCA = c.kahunaFile("kahuna-client-ca", c.f.KahunaClientCA)
	k.TokenFile = c.path("kahuna-token-file", c.f.KahunaTokenFile, func() (string, string) { return "", "" })
	if len(c.f.KahunaListen) == 0 {
		c.kahunaIdle()
	} else {
		c.kahunaSecurity()
		c.kahunaAdvertise()
	}
	c.kahunaLimits()
}

func (c *checker) kahunaListen(scheme, text string) {
	host, port, ok := c.hostPort("kahuna-listen", text, true) // the port is told: in hellos and in the status
	if !ok {
		return
	}
	if host == "::" && !strings.HasPrefix(text, "[") {
		host = "" // both families, also where there is only IPv4
	}
	if l := (KahunaListen{scheme, net.JoinHostPort(host, port)}); !slices.Contains(c.cfg.Kahuna.Listen, l) {
		c.cfg.Kahuna.Listen = append(c.cfg.Kahuna.Listen, l)
	}
}

func (c *checker) kahunaFile(key, path string) string {
	if path == "" {
		return ""
	}
	path = c.path(key, path, nil)
	if err := c.host.CanRead(path); err != nil {
		c.problem(key, "cannot read it: %v", err)
	}
	return path
}

// kahunaIdle tells of settings that do nothing.
func (c *checker) kahunaIdle() {
	for key, set := range map[string]bool{
		"kahuna-tls-cert": c.f.KahunaTLSCert != "", "kahuna-tls-key": c.f.KahunaTLSKey != "", "kahuna-client-ca": c.f.KahunaClientCA != "",
		"kahuna-token-file": c.f.KahunaTokenFile != "", "kahuna-insecure": c.f.KahunaInsecure, "kahuna-advertise": c.f.KahunaAdvertise != "",
	} {
		if set {
			c.problem(key, "it says how the Kahuna wire is spoken over TCP, and nothing listens there; set kahuna-listen, or leave it out")
		}
	}
	c.cfg.Kahuna = Kahuna{}
}

// kahunaSecurity: nobody is trusted unless somebody said who.
func (c *checker) kahunaSecurity() {
	k, f := &c.cfg.Kahuna, &c.f
	if (f.KahunaTLSCert == "") != (f.KahunaTLSKey == "") {
		c.problem("kahuna-tls-cert", "a certificate and its key belong together; set both kahuna-tls-cert and kahuna-tls-key, or neither")
	}
	if mode, ok := c.host.FileMode(k.Key); k.Key != "" && ok && mode&0o077 != 0 {
		c.warn("kahuna-tls-key %s can be read by others than its owner; fix with: chmod 600 %s", k.Key, k.Key)
	}
	if !k.Insecure {
		switch {
		case k.ClientCA == "" && k.TokenFile == "":
			c.problem("kahuna-listen", "nobody could use it; say who is trusted with kahuna-client-ca or kahuna-token-file, or that everybody is with kahuna-insecure")
		case k.ClientCA != "" && (c.cfg.Policy == nil || !c.cfg.Policy.NamesRemote(caller.Certificate)):
			c.problem("kahuna-client-ca", "no rule of the policy names a certificate, so its holder could do nothing; add one, for example: certificates: [\"*\"], allow: [read, write, lock, sequence]")
		}
		for _, l := range k.Listen {
			c.kahunaClear(l)
		}
		return
	}
	if k.ClientCA != "" || k.TokenFile != "" {
		c.problem("kahuna-insecure", "it takes everybody, whatever they show; leave it out, or kahuna-client-ca and kahuna-token-file")
	}
	if c.cfg.Policy != nil && !c.cfg.Policy.NamesRemote(caller.Anonymous) {
		c.problem("kahuna-insecure", "no rule of the policy is for callers without a name, so they could do nothing; add one, for example: anonymous: true, allow: [read, write, lock, sequence]")
	}
	for _, l := range k.Listen {
		if c.kahunaReach("kahuna-insecure", l, "whoever connects may do everything; listen on a private address, or use kahuna-token-file") {
			c.warn("kahuna-insecure: whoever reaches %s may do everything that the Kahuna wire has, without a name and in clear text", l)
		}
	}
}

// kahunaClear checks a listener without TLS that asks for tokens: they must not be
// read on their way.
func (c *checker) kahunaClear(l KahunaListen) {
	if !l.clear(false) {
		return
	}
	if c.cfg.Kahuna.TokenFile == "" {
		c.problem("kahuna-listen", "nobody can show a certificate at %s, which is clear text; set kahuna-token-file, or listen without http://", l)
		return
	}
	if c.kahunaReach("kahuna-listen", l, "its clients' tokens could be read on their way; listen on 127.0.0.1 for the proxy that ends TLS, or without http://") {
		c.warn("kahuna-listen: whoever sees the network traffic of %s can read its clients' tokens, since it is clear text", l)
	}
}

// kahunaReach refuses a listener that the internet could reach, with the reason why
// that must not be, and reports whether the network can.
func (c *checker) kahunaReach(key string, l KahunaListen, why string) bool {
	host, _, _ := net.SplitHostPort(l.Address) // checked before
	reached := []netip.Addr{}
	switch a, err := netip.ParseAddr(host); {
	case isLoopback(host):
		return false
	case host == "" || err == nil && a.IsUnspecified():
		all, err := c.host.Addresses()
		if err != nil {
			c.problem(key, "%s means every address, and %v", l, err)
			return false
		}
		reached = all
	case err == nil:
		reached = append(reached, a)
	}
	if i := slices.IndexFunc(reached, isPublic); i >= 0 {
		c.problem(key, "%s can be reached from the internet at %s, and %s", l, reached[i], why)
		return false
	}
	return true
}

// carrierNAT is neither private nor public.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsGlobalUnicast() && !a.IsPrivate() && !carrierNAT.Contains(a)
}

// kahunaAdvertise finds the URL that clients elsewhere are sent to.
func (c *checker) kahunaAdvertise() {
	k := &c.cfg.Kahuna
	if text := c.f.KahunaAdvertise; text != "" {
		base, ok := baseURL(text)
		scheme, address, _ := strings.Cut(base, "://")
		host, _, _ := net.SplitHostPort(address)
		switch {
		case !ok:
			c.problem("kahuna-advertise", "%q is not scheme, address and port; write for example https://192.0.2.7:2071", text)
		case scheme == "http" && !slices.ContainsFunc(k.Listen, func(l KahunaListen) bool { return l.clear(k.Insecure) }):
			c.problem("kahuna-advertise", "%s is clear text, which is only spoken with kahuna-insecure or at http:// of kahuna-listen; write https", text)
		case isWildcard(host):
			c.problem("kahuna-advertise", "%s means every address; name the one that clients use", text)
		default:
			k.Advertise = base
		}
		return
	}
	if len(k.Listen) == 0 {
		return // all of it is reported
	}
	scheme := map[bool]string{true: "http://", false: "https://"}[k.Listen[0].clear(k.Insecure)]
	host, port, _ := net.SplitHostPort(k.Listen[0].Address) // checked before
	own, _, err := net.SplitHostPort(c.cfg.Advertise)       // of the agent, among agents
	switch a, parseErr := netip.ParseAddr(host); {
	case err != nil && !c.f.Dev:
		return // reported
	case isLoopback(host) && !c.f.Dev && !isLoopback(own):
		return // other hosts' clients would find their own
	case host == "" || parseErr == nil && a.IsUnspecified():
		host = own
	}
	k.Advertise = scheme + net.JoinHostPort(host, port)
}

func (c *checker) kahunaLimits() {
	k, f := &c.cfg.Kahuna.Limits, c.f.Limits
	count := func(key string, to *int, n, least, most int) {
		if n < least || n > most {
			c.problem("limits."+key, "%d is not between %d and %d", n, least, most)
		}
		*to = n
	}
	count("kahuna-connections", &k.Connections, f.KahunaConnections, 1, 1<<20)
	count("kahuna-connections-per-address", &k.ConnectionsPerAddress, f.KahunaConnectionsPerAddress, 1, 1<<20)
	count("kahuna-requests", &k.Requests, f.KahunaRequests, 1, 1<<20)
	count("kahuna-streams-per-connection", &k.StreamsPerConnection, f.KahunaStreamsPerConnection, 1, 1<<16)
	count("kahuna-batch-streams", &k.BatchStreams, f.KahunaBatchStreams, 1, 1<<20)
	count("kahuna-in-flight-per-stream", &k.InFlightPerStream, f.KahunaInFlightPerStream, 1, 1<<16)
	k.UnreadSizeBytes = c.size("limits.kahuna-unread-size", f.KahunaUnreadSize, 1<<20, 1<<40)
	if f.KahunaMessageSize != "" {
		k.MessageSizeBytes = c.size("limits.kahuna-message-size", f.KahunaMessageSize, minKahunaMessage, 1<<30)
		if least := c.cfg.Limits.ValueSizeBytes + minKahunaMessage; k.MessageSizeBytes != 0 && k.MessageSizeBytes < least {
			c.problem("limits.kahuna-message-size", "%s has no room for a value of limits.value-size, which takes %d bytes with its key", f.KahunaMessageSize, least)
		}
	}
	t := c.f.Timeouts
	k.Header = c.duration("timeouts.kahuna-header", t.KahunaHeader, 100*time.Millisecond, time.Hour)
	k.Idle = c.duration("timeouts.kahuna-idle", t.KahunaIdle, time.Second, 30*24*time.Hour)
	k.Silence = c.duration("timeouts.kahuna-silence", t.KahunaSilence, 100*time.Millisecond, time.Hour)
	k.Unread = c.duration("timeouts.kahuna-unread", t.KahunaUnread, 100*time.Millisecond, time.Hour)
}

// minKahunaMessage is what a message may have beside one value, at least: a key of
// 64 KiB, and its envelope.
const minKahunaMessage = 128 << 10
