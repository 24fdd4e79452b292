// Package localapi is everything that listens for applications.
package localapi
