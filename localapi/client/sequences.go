package client

import (
	"context"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// SequenceCreate makes a sequence. ErrExists.
func (c *Client) SequenceCreate(ctx context.Context, name string, o wire.SequenceCreate) (wire.Sequence, error) {
	return wire.Sequence{}, ErrNoAgent
}

// SequenceNext returns the next value. With an idempotency key that was used
// before it returns the value given then. ErrNotFound, ErrExhausted, ErrConflict.
func (c *Client) SequenceNext(ctx context.Context, name, idempotencyKey string) (wire.Allocation, error) {
	return wire.Allocation{}, ErrNoAgent
}

// SequenceReserve returns the next count values. Errors as SequenceNext.
func (c *Client) SequenceReserve(ctx context.Context, name string, count int64, idempotencyKey string) (wire.Allocation, error) {
	return wire.Allocation{}, ErrNoAgent
}

// SequenceGet reads a sequence. ErrNotFound.
func (c *Client) SequenceGet(ctx context.Context, name string) (wire.Sequence, error) {
	return wire.Sequence{}, ErrNoAgent
}

// SequenceUpdate changes a sequence. ErrNotFound, ErrInvalid.
func (c *Client) SequenceUpdate(ctx context.Context, name string, o wire.SequenceUpdate) (wire.Sequence, error) {
	return wire.Sequence{}, ErrNoAgent
}

// SequenceDelete removes a sequence. ErrNotFound.
func (c *Client) SequenceDelete(ctx context.Context, name string) error {
	return ErrNoAgent
}

// SequenceList returns a page of sequences in order of name.
func (c *Client) SequenceList(ctx context.Context, prefix string, p Page) (wire.Sequences, error) {
	return wire.Sequences{}, ErrNoAgent
}
