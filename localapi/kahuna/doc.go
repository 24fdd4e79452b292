// Package kahuna speaks the wire of Kahuna's clients.
package kahuna
