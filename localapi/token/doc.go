// Package token keeps bearer tokens: who comes from the network and has one is who
// the token was made for.
//
// It promises that a token is shown once, when it is made, and kept as a hash only;
// that a change of the file is seen by running agents within a second, a revocation
// on streams that are open as well; and that a file which cannot be read or
// understood never makes a token valid. The main types are Store, which an agent
// asks, and Entry, which Create, List and Revoke change in the file. What a token
// may do is a policy's to say: its own rule is part of its entry, and rules of the
// configuration can name it.
//
// A token is kahu_ID_SECRET: 16 hexadecimal digits that name it and are no secret,
// and 256 random bits in base64url. A plain SHA-256 is enough for those: there is
// nothing to guess.
package token
