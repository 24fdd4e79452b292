// Package stream carries many requests at a time over one connection.
//
// The Go client, the agents among themselves and forwarding speak it; curl and
// everybody else speak HTTP. It promises that a request gets exactly one
// answer, one error of the other side (RemoteError), or word that the
// connection was lost before an answer came (ErrBroken); that memory for a peer
// is bounded; and that a peer which is hostile, dead or never reads costs its
// own connection and nothing else. The main type is Conn. What methods and
// payloads mean, who the peer is, and what to do after ErrBroken is left to the
// packages above.
//
// # Connection
//
// Both ends may call. Each begins with a hello of 24 bytes and waits for the
// other's before it sends anything else:
//
//	 0              7         8                12               16                        24
//	+---------------+---------+----------------+----------------+-------------------------+
//	| "\x00kahust"  | version | max frame u32  | in flight u32  | in-flight bytes u64     |
//	+---------------+---------+----------------+----------------+-------------------------+
//
// All numbers are big-endian. The first byte is zero, which no HTTP request and
// no TLS record begins with, so that a listener can tell them apart. Version is
// 1; another one ends the connection with an error that names both. The three
// limits are what the sender of the hello accepts: the bytes of one frame after
// its length, requests unanswered at a time, and the sum of their payloads (one
// request may always be on its way alone, however large its payload).
//
// # Frame
//
//	 0            4                      12     13       14
//	+------------+----------------------+------+--------+------------------+
//	| length u32 | id u64               | kind | method | payload          |
//	+------------+----------------------+------+--------+------------------+
//
// Length counts what follows it, 10 bytes at least. It is checked against the
// own limit before anything is allocated. The id is given by the caller, each
// end counts its own; method is zero in all kinds but call and open.
//
//	kind        from     payload
//	1 call      caller   request; is answered by one answer or fail
//	2 open      caller   request; opens a stream, which ends with end or fail
//	3 up        caller   message in a stream
//	4 down      callee   message in a stream
//	5 answer    callee   the answer to a call, its last frame
//	6 fail      callee   code u32 and text, last frame
//	7 end       callee   none; last frame of a stream
//	8 cancel    caller   none; nobody waits any more. The last frame still comes
//	9 creditUp  callee   u32: so many more bytes may be sent up
//	10 creditDown caller u32: so many more bytes may be sent down
//	11 ping     both     none, id zero; is answered by a pong
//	12 pong     both     none, id zero
//
// A request counts as in flight from its first to its last frame. The caller
// waits while the other side's limit is reached; a peer that exceeds a limit
// breaks the protocol. In each direction of a stream the sender starts with
// WindowBytes and may send while what it has left is positive; a message costs
// its payload and MessageCostBytes. The receiver gives credit back as messages
// are taken.
package stream
