package client

import (
	"context"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// SequenceCreate makes a sequence. ErrExists.
func (c *Client) SequenceCreate(ctx context.Context, name string, o wire.SequenceCreate) (wire.Sequence, error) {
	a, err := c.ask(ctx, "sequence", name, o.Request(name))
	if err != nil {
		return wire.Sequence{}, err
	}
	return wire.SequenceOf(a.GetSequence()), nil
}

// SequenceNext returns the next value. With an idempotency key that was used
// before it returns the value given then. ErrNotFound, ErrExhausted, ErrConflict.
func (c *Client) SequenceNext(ctx context.Context, name, idempotencyKey string) (wire.Allocation, error) {
	return c.SequenceReserve(ctx, name, 1, idempotencyKey)
}

// SequenceReserve returns the next count values. Errors as SequenceNext.
func (c *Client) SequenceReserve(ctx context.Context, name string, count int64, idempotencyKey string) (wire.Allocation, error) {
	a, err := c.ask(ctx, "sequence", name, &replication.Request{Op: &replication.Request_SequenceNext{SequenceNext: &replication.SequenceNext{
		Name: name, Count: count, IdempotencyKey: idempotencyKey}}})
	if err != nil {
		return wire.Allocation{}, err
	}
	return wire.AllocationOf(a.GetAllocation()), nil
}

// SequenceGet reads a sequence. ErrNotFound.
func (c *Client) SequenceGet(ctx context.Context, name string) (wire.Sequence, error) {
	a, err := c.getSequence(ctx, name)
	if err != nil {
		return wire.Sequence{}, err
	}
	return wire.SequenceOf(a.GetSequence()), nil
}

// SequenceUpdate changes a sequence. ErrNotFound; ErrInvalid, among others when
// Current would be lowered without AllowLower.
func (c *Client) SequenceUpdate(ctx context.Context, name string, o wire.SequenceUpdate) (wire.Sequence, error) {
	if o.Current != nil && !o.AllowLower {
		now, err := c.getSequence(ctx, name)
		if err != nil {
			return wire.Sequence{}, err
		}
		if err := o.CheckNotLower(now.GetSequence()); err != nil {
			return wire.Sequence{}, about("sequence", name, fail(err.Error(), ErrInvalid))
		}
	}
	a, err := c.ask(ctx, "sequence", name, o.Request(name))
	if err != nil {
		return wire.Sequence{}, err
	}
	return wire.SequenceOf(a.GetSequence()), nil
}

// SequenceDelete removes a sequence. ErrNotFound.
func (c *Client) SequenceDelete(ctx context.Context, name string) error {
	_, err := c.ask(ctx, "sequence", name, &replication.Request{Op: &replication.Request_SequenceDelete{SequenceDelete: &replication.SequenceDelete{Name: name}}})
	return err
}

// SequenceList returns a page of sequences in order of name.
func (c *Client) SequenceList(ctx context.Context, prefix string, p Page) (wire.Sequences, error) {
	a, err := c.ask(ctx, "sequences with prefix", prefix, &replication.Request{Op: &replication.Request_SequenceList{SequenceList: &replication.SequenceList{
		Prefix: prefix, After: p.After, Limit: p.limit()}}})
	if err != nil {
		return wire.Sequences{}, err
	}
	return wire.SequencesOf(a.GetSequences()), nil
}

func (c *Client) getSequence(ctx context.Context, name string) (*replication.Answer, error) {
	return c.ask(ctx, "sequence", name, &replication.Request{Op: &replication.Request_SequenceGet{SequenceGet: &replication.SequenceGet{Name: name}}})
}
