// Package doors is the TCP listeners of the Kahuna wire: what connects, who that
// is, and how much of it at a time.
//
// It promises that every listener takes HTTP/1.1 and HTTP/2 on its one port, chosen
// by ALPN under TLS and by prior knowledge in clear text; that clear text is
// answered only where whoever connects is trusted anyway (Config.Insecure), or on a
// listener that was asked for it by name (HTTP), where it needs a bearer token; that
// elsewhere a request reaches the handler only with a Caller who presented a
// certificate of the client CA or a valid bearer token; that certificates, the
// client CA and tokens are read again when their files change; and that a peer
// which is slow, silent or greedy loses its connection without harm to others. The
// main type is Server. What a caller may do is left to the handler and its policy.
//
// Who somebody is: with Insecure everybody is anonymous and Authorization is not
// looked at, since stock clients of Kahuna send a constant there (decisions.md 49).
// Else a verified client certificate says it for the whole connection, and
// Authorization is not looked at either; without one each request needs a token.
// What a proxy in front says of whom it serves (X-Forwarded-For, certificates in
// headers) is not looked at: anybody could write it.
//
// Limits are in limits.go, each with what happens beyond it.
package doors
