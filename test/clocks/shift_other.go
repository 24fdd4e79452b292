//go:build !amd64

package clocks

import "errors"

// Supported reports whether Shift works on this architecture.
const Supported = false

func shift(int, int64) (bool, error) {
	return false, errors.New("the code that shifts a clock is there for amd64 only")
}
