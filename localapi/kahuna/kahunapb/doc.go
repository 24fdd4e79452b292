// Package kahunapb has the messages and services of Kahuna's clients, generated
// from .proto files that were written from the facts of the contract (names and
// numbers of Kahuna.Shared/Communication/Grpc/Protos and kahuna-ts).
//
// It is the wire and nothing else: localapi/kahuna gives it meaning.
//
// Two differences from Kahuna's files, both unseen on the wire. Rpcs and messages
// between Kahuna's servers are left out. And TYPE_NONE, which Kahuna declares in
// two files without a package, is LOCK_TYPE_NONE in the lock one: enum values are
// siblings of their enum, so that the second file would panic at registration.
package kahunapb

//go:generate ../../../test/generated.sh --write
