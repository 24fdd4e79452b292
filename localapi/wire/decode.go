package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a JSON body may nest; ours are flat.
const maxDepth = 8

// Decode reads one JSON object into v, a pointer to a struct, and refuses what
// encoding/json lets pass: unknown names and names in other case, a name given
// twice, something behind the object, text that is not UTF-8. v is undefined
// after an error. The text of the error is fit for a stranger.
func Decode(data []byte, v any) error { return DecodeWithin(data, v, MaxJSONBytes) }

// DecodeWithin is Decode with another limit of bytes than MaxJSONBytes.
func DecodeWithin(data []byte, v any, limit int64) error {
	if int64(len(data)) > limit {
		return fmt.Errorf("the JSON has %d bytes, and the limit is %d", len(data), limit)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("the body is empty, and should be a JSON object")
	}
	if !utf8.Valid(data) {
		return errors.New("the JSON is not valid UTF-8")
	}
	if err := checkShape(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("the JSON field %q must be %s, and is %s", wrong.Field, jsonKind(wrong.Type), article(wrong.Value))
		}
		return fmt.Errorf("the JSON is not as it should be: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// jsonKind names what JSON has for a Go type.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits, written without a point or an exponent", t.Bits())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string of base64"
		}
		return "an array"
	}
	return "an object"
}

// article is what encoding/json found instead: "string", or "number 1e2".
func article(found string) string {
	if strings.HasPrefix(found, "number ") {
		return "the " + found
	}
	if strings.HasPrefix(found, "array") || strings.HasPrefix(found, "object") {
		return "an " + found
	}
	return "a " + found
}

// broken says what is wrong with a text that is no JSON.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends in the middle")
	}
	return fmt.Errorf("the JSON is broken: %w", err)
}

// checkShape walks the tokens: one object, every name once.
func checkShape(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	first, err := d.Token()
	if err != nil {
		return broken(err)
	}
	if first != json.Delim('{') {
		return errors.New("the JSON must be an object")
	}
	if err := checkObject(d, data, 1); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the JSON object")
	}
	return nil
}

func checkObject(d *json.Decoder, data []byte, depth int) error {
	seen := make(map[string]bool)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return broken(err)
		}
		name, ok := token.(string)
		if !ok {
			return errors.New("the JSON is broken")
		}
		if seen[name] {
			return fmt.Errorf("the JSON field %q is there twice", name)
		}
		seen[name] = true
		// encoding/json folds case, Unicode's included.
		if strings.IndexFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
		}) >= 0 {
			return fmt.Errorf("the JSON is not as it should be: unknown field %q", name)
		}
		if err := checkValue(d, data, depth); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return broken(err)
	}
	return nil
}

func checkValue(d *json.Decoder, data []byte, depth int) error {
	token, err := d.Token()
	if err != nil {
		return broken(err)
	}
	switch t := token.(type) {
	case string:
		// Half of a surrogate pair becomes U+FFFD, which nobody wrote.
		if strings.ContainsRune(t, utf8.RuneError) && hasSurrogateEscape(data) {
			return errors.New("the JSON has an unpaired surrogate")
		}
	case json.Delim:
		if depth >= maxDepth {
			return fmt.Errorf("the JSON nests deeper than %d", maxDepth)
		}
		if t == '{' {
			return checkObject(d, data, depth+1)
		}
		for d.More() {
			if err := checkValue(d, data, depth+1); err != nil {
				return err
			}
		}
		if _, err := d.Token(); err != nil { // the closing bracket
			return broken(err)
		}
	}
	return nil
}

func hasSurrogateEscape(data []byte) bool {
	return bytes.Contains(bytes.ToLower(data), []byte(`\ud`))
}
