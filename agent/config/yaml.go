package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
)

// yamlFile is koanf's parser, which says in one line what to do about a file that it
// cannot read.
type yamlFile struct{ yaml.YAML }

// Unmarshal implements koanf.Parser.
func (f *yamlFile) Unmarshal(text []byte) (map[string]any, error) {
	if line := secondDocument(text); line > 0 {
		return nil, fmt.Errorf("line %d: --- begins a second document, which would not be read; put all keys into one", line)
	}
	keys, err := f.YAML.Unmarshal(text)
	if err != nil {
		return nil, explainYAML(err)
	}
	return keys, nil
}

// secondDocument returns the line that begins one, 0 when there is none.
func secondDocument(text []byte) int {
	content := false
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimRight(line, " \t\r")
		switch {
		case bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || line[3] == ' '):
			if content {
				return i + 1
			}
		case len(line) > 0 && line[0] != '#' && line[0] != '%':
			content = true
		}
	}
	return 0
}

// explainYAML says what to do about what the parser says.
func explainYAML(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.Join(strings.Fields(strings.TrimPrefix(text, "unmarshal errors:")), " ")
	line, _, _ := strings.Cut(text, ": ")
	switch {
	case strings.Contains(text, "into map["):
		return fmt.Errorf("%s: it is a list or a text, and has to be lines such as \"bind: 10.0.0.1:7350\"", line)
	case strings.Contains(text, "tab character"), strings.Contains(text, "cannot start any token"):
		return fmt.Errorf("%s; indent with blanks, not with tabs", text)
	case strings.Contains(text, "already defined"):
		return fmt.Errorf("%s; take one of the two out", text)
	}
	return fmt.Errorf("%s; kahu agent --print-config shows how it has to look", text)
}
