// Package caller knows who is at the other end of a Unix socket.
//
// It promises that identity comes from the kernel, is taken once at accept and
// never looked up again, and that a socket is bound without a moment at which
// others could reach or replace it. The main types are Listener and Caller.
// What a caller may do is left to package policy, and how somebody from the
// network proves who it is, to package localapi/doors; a Caller says it for them
// as well.
package caller
