package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// httpTarget asks as curl would: one HTTP request per operation on the Unix
// socket, a connection for each caller.
type httpTarget struct {
	client *http.Client
}

func newHTTPTarget(socket string, callers int) httpTarget {
	return httpTarget{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: callers,
		DisableCompression:  true,
	}}}
}

const (
	typeJSON  = "application/json"
	typeBytes = "application/octet-stream"
)

// do sends one request and reads the whole answer. A status that is no success
// is an error unless it is allowed.
func (t httpTarget) do(ctx context.Context, method, path, contentType string, body []byte, allowed ...int) error {
	_, err := t.answer(ctx, method, path, contentType, body, allowed...)
	return err
}

// answer is do with the body of a success.
func (t httpTarget) answer(ctx context.Context, method, path, contentType string, body []byte, allowed ...int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://kahu/kahu/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method != http.MethodGet && body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := t.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode < 300 {
		return text, nil
	}
	for _, status := range allowed {
		if response.StatusCode == status {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %s: %.200s", method, path, response.Status, bytes.TrimSpace(text))
}

// post sends a body as JSON.
func (t httpTarget) post(ctx context.Context, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return t.do(ctx, http.MethodPost, path, typeJSON, text)
}

// postFor is post with an answer in JSON.
func (t httpTarget) postFor(ctx context.Context, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if text, err = t.answer(ctx, http.MethodPost, path, typeJSON, text); err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// Put sets a key.
func (t httpTarget) Put(ctx context.Context, key string, value []byte) error {
	return t.do(ctx, http.MethodPut, "kv/"+url.PathEscape(key), typeBytes, value)
}

// Get reads a key, which must exist.
func (t httpTarget) Get(ctx context.Context, key string) error {
	return t.do(ctx, http.MethodGet, "kv/"+url.PathEscape(key), "", nil)
}

// Lock takes a lock that is free.
func (t httpTarget) Lock(ctx context.Context, name, owner string) error {
	return t.post(ctx, "locks/"+url.PathEscape(name)+"/try", wire.LockTry{Owner: owner, TTL: benchLockTTL.String()})
}

// Unlock gives it back.
func (t httpTarget) Unlock(ctx context.Context, name, owner string) error {
	return t.post(ctx, "locks/"+url.PathEscape(name)+"/unlock", wire.LockUnlock{Owner: owner})
}

// CreateSequence makes sure that the sequence exists.
func (t httpTarget) CreateSequence(ctx context.Context, name string) error {
	return t.do(ctx, http.MethodPut, "sequences/"+url.PathEscape(name), typeJSON, []byte("{}"), http.StatusConflict)
}

// Next takes a number.
func (t httpTarget) Next(ctx context.Context, name string) error {
	return t.do(ctx, http.MethodPost, "sequences/"+url.PathEscape(name)+"/next", "", nil)
}

// Close closes the idle connections; the others end with their requests.
func (t httpTarget) Close() error {
	t.client.CloseIdleConnections()
	return nil
}
