// Package localapi is everything that listens for applications: kahu's own API
// on the Unix socket, in HTTP and JSON for curl and every language, and on a
// multiplexed stream for the Go client.
//
// It promises that every request is judged by who the kernel says the caller is
// and by the policy, before anything else happens; that what is not in the route
// table (routes.go) or the list of operations (access.go) is refused; that bad
// input is answered with a problem that names it, and changes nothing; and that
// "certainly not carried out" and "perhaps carried out" are never mixed up. The
// main type is Server; testdata/http.txt shows every route with its answers.
//
// One request walks: Serve (accepted, with its caller), dispatch (row, name,
// access) or upgraded.handle (stream), the handler, do (judge, stamp, ask,
// redact), Coordinator. A hold goes to the Holder instead. What becomes of
// requests is left to replication, keeping holds alive to agent/holds, the wire's
// words to localapi/wire, callers to localapi/caller, and rules to
// localapi/policy.
//
// On a TCP listener there are health and metrics, and nothing else: nobody is
// authenticated there.
package localapi
