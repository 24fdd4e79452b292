// Package wire is what kahu's own API looks like on the socket, shared by the
// server and the Go client.
//
// It promises that both ends use the same words: the JSON types, the method
// numbers of the multiplexed stream, the limits of kahu's own surface, and one
// table from codes to problem documents (RFC 9457). Its parsers take what
// strangers send: they refuse what they do not know, never guess, and never
// panic. Routes and handlers are in package localapi, connections in
// localapi/client and localapi.
package wire
