package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/holdwire"
)

// HTTP is spoken here by hand, and only as much of it as kahu's own agent answers
// with: net/http is what most of a small program's start is spent on.

const (
	switchingProtocols = 101
	noContent          = 204
)

// answer is the head of an HTTP answer.
type answer struct {
	status int
	length int64 // of the body; negative: until the end of the connection
	pieces bool  // the body is chunked
}

// readAnswer reads the status line and the headers.
func readAnswer(in *bufio.Reader) (answer, error) {
	line, err := readLine(in)
	if err != nil {
		return answer{}, err
	}
	version, rest, _ := strings.Cut(line, " ")
	number, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(number)
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") {
		return answer{}, fmt.Errorf("%.80q is no answer of HTTP/1.1", line)
	}
	a := answer{status: status, length: -1}
	for range maxHeaders {
		line, err := readLine(in)
		if err != nil || line == "" {
			return a, err
		}
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "transfer-encoding":
			a.pieces = true
		case "content-length":
			if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil && n >= 0 {
				a.length = n
			}
		}
	}
	return answer{}, errors.New("an answer with too many headers")
}

// maxHeaders is far above what the agent sends; a line fits the reader's buffer.
const maxHeaders = 100

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	return strings.TrimRight(string(line), "\r\n"), err
}

// body reads the body of a refusal as far as it is there; nil when it has a form
// that the agent never gives it.
func (a answer) body(in io.Reader) []byte {
	if a.pieces {
		return nil
	}
	limit := int64(holdwire.MaxJSONBytes)
	if a.length >= 0 {
		limit = min(limit, a.length)
	}
	b, _ := io.ReadAll(io.LimitReader(in, limit)) // what is cut off is no document
	return b
}

// Refusal turns the answer of an HTTP request into an error: what its problem
// document says, or its status.
func Refusal(status int, body []byte) error {
	var p holdwire.Problem
	if json.Unmarshal(body, &p) != nil || sentinels[p.Code] == nil {
		return fmt.Errorf("it answered with status %d", status)
	}
	return ErrorOfKind(p.Code, p.Detail)
}

// Post sends a JSON body to a path of the agent, on a connection of its own, and
// returns nil when it was done. Errors are as of Dial, and the refusal.
func Post(ctx context.Context, socket, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return Fail("the request cannot be encoded: "+err.Error(), ErrInternal, err)
	}
	conn, err := connect(ctx, socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the answer was read
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a, text, err := post(conn, path, b)
	switch {
	case err != nil && ctx.Err() != nil:
		return Fail("given up before an answer came, and it may have been carried out: "+context.Cause(ctx).Error(), ErrUnknownOutcome, context.Cause(ctx))
	case err != nil:
		return Fail("the connection to the agent was lost, and the request may have been carried out", ErrUnknownOutcome, err)
	case a.status != noContent:
		return Refusal(a.status, text)
	}
	return nil
}

func post(conn io.ReadWriter, path string, body []byte) (a answer, text []byte, err error) {
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: kahu\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	if _, err := io.WriteString(conn, request); err != nil {
		return a, nil, err
	}
	in := bufio.NewReader(conn)
	if a, err = readAnswer(in); err != nil {
		return a, nil, err
	}
	if a.status != noContent {
		text = a.body(in)
	}
	return a, text, nil
}
