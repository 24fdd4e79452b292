package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// badRequest is a request that could not be read; its detail is for people.
type badRequest struct {
	status int
	detail string
}

// Error implements error.
func (b *badRequest) Error() string { return b.detail }

func bad(format string, args ...any) error {
	return &badRequest{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// decode reads the JSON body into v, as ASP.NET reads a [FromBody] parameter: the
// content type must be JSON (415), and there must be one object (400). Names are
// matched without regard to case, unknown ones ignored (R1).
func (x *exchange) decode(v any) error {
	if err := jsonContent(x.r.Header); err != nil {
		return err
	}
	body, err := x.read()
	if err != nil {
		return err
	}
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 {
		return bad("the body is empty, and a JSON object is needed")
	}
	if trimmed[0] != '{' {
		return bad("the body must be a JSON object")
	}
	if !wholeText(body) {
		return bad("the body has text that is not valid Unicode")
	}
	return decodeError(json.Unmarshal(body, v))
}

func jsonContent(header http.Header) error {
	if e := header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &badRequest{http.StatusUnsupportedMediaType, fmt.Sprintf("the content encoding %.40q is not understood", e)}
	}
	kind := header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(kind)
	if charset := params["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") ||
		media != "application/json" && !strings.HasSuffix(media, "+json") {
		return &badRequest{http.StatusUnsupportedMediaType, fmt.Sprintf("the body must be application/json and not %.80q", kind)}
	}
	return nil
}

// read reads the body to its end, within the limits.
func (x *exchange) read() ([]byte, error) {
	tooLarge := &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes, which is the limit", x.h.maxBody)}
	if x.r.ContentLength > x.h.maxBody {
		return nil, tooLarge
	}
	rc := http.NewResponseController(x.w)
	deadline := time.Now().Add(bodyTimeout)
	// An error means that the connection cannot do deadlines.
	_ = rc.SetReadDeadline(deadline)
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()

	in := http.MaxBytesReader(x.w, x.r.Body, x.h.maxBody)
	var buf bytes.Buffer
	_, err := io.CopyN(&buf, in, smallBodyBytes)
	if err == nil { // perhaps there is more
		if !x.takeTurn(deadline) {
			return nil, &badRequest{http.StatusRequestTimeout, "too many large bodies at a time"}
		}
		_, err = io.Copy(&buf, in)
	}
	var max *http.MaxBytesError
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return buf.Bytes(), nil
	case errors.As(err, &max):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &badRequest{http.StatusRequestTimeout, "the body did not come in time"}
	default:
		return nil, bad("the body could not be read to its end")
	}
}

// takeTurn waits for a turn to hold a large body, which endTurn gives back.
func (x *exchange) takeTurn(deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case x.h.large <- struct{}{}:
		x.turn = func() { <-x.h.large }
		return true
	case <-x.r.Context().Done():
	case <-timer.C:
	}
	return false
}

// wholeText reports whether a JSON text is valid UTF-8 and its \u escapes make
// whole characters. encoding/json would put U+FFFD in place of what is not, and so
// make one name out of two; System.Text.Json refuses.
func wholeText(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	for i := bytes.IndexByte(body, '\\'); i >= 0 && i+1 < len(body); {
		next := i + 2
		if r, ok := escaped(body[i:]); ok {
			next = i + 6
			if 0xdc00 <= r && r < 0xe000 {
				return false
			}
			if 0xd800 <= r && r < 0xdc00 {
				low, ok := escaped(body[next:])
				if !ok || low < 0xdc00 || 0xe000 <= low {
					return false
				}
				next += 6
			}
		}
		at := bytes.IndexByte(body[min(next, len(body)):], '\\')
		if at < 0 {
			break
		}
		i = next + at
	}
	return true
}

// escaped returns the value of the \uXXXX that b begins with.
func escaped(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// decodeError says what is wrong in the words of JSON and not of Go.
func decodeError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var value *valueError
	var known *badRequest
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &value):
		return bad("%s", value.detail)
	case errors.As(err, &syntax):
		return bad("the body is not valid JSON at byte %d: %v", syntax.Offset, syntax)
	case errors.As(err, &kind) && kind.Field != "":
		return bad("the field %s cannot be a JSON %s", cut(kind.Field), kind.Value)
	case errors.As(err, &kind):
		return bad("the body has a JSON %s where an object is needed", kind.Value)
	default:
		return bad("the body is not valid JSON")
	}
}
