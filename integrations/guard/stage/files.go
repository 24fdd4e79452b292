package stage

import (
	"bytes"
	"os"
)

// Files are there for as long as the command runs: text by path. The keeper makes and
// removes them, and the face removes those of a keeper that died.
type Files map[string]string

// Encode is Text of Started.
func (f Files) Encode() string {
	var out []byte
	for path, text := range f {
		out = append(append(append(append(out, path...), 0), text...), 0)
	}
	return string(out)
}

func parseFiles(s string) Files {
	f := Files{}
	words := bytes.Split([]byte(s), []byte{0})
	for i := 0; i+1 < len(words); i += 2 {
		f[string(words[i])] = string(words[i+1])
	}
	return f
}

// Remove removes those that are as they were made: what somebody has put in their
// place since is not ours.
func (f Files) Remove() {
	for path, text := range f {
		if b, err := os.ReadFile(path); err == nil && string(b) == text {
			_ = os.Remove(path)
		}
	}
}
