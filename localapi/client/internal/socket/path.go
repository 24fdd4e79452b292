package socket

import (
	"os"
)

const systemSocket = "/run/kahu/kahu.sock"

// Path returns the path to use: explicit when it is not empty (the
// --socket flag), else $KAHU_SOCKET, else for a user other than root
// $XDG_RUNTIME_DIR/kahu/kahu.sock unless only the system's exists, else
// /run/kahu/kahu.sock.
func Path(explicit string) string {
	return path(explicit, os.Geteuid(), os.Getenv, func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	})
}

func path(explicit string, uid int, getenv func(string) string, exists func(string) bool) string {
	if explicit != "" {
		return explicit
	}
	if path := getenv("KAHU_SOCKET"); path != "" {
		return path
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" && uid != 0 {
		own := dir + "/kahu/kahu.sock"
		if exists(own) || !exists(systemSocket) {
			return own
		}
	}
	return systemSocket
}
