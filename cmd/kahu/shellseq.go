package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func shellNumbers(args []string) ([]int64, error) {
	var out []int64
	for _, a := range args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return nil, usageError(printable(a) + " is no whole number")
		}
		out = append(out, n)
	}
	return out, nil
}

func (s *shell) createSequence(ctx context.Context, args []string) error {
	numbers, err := shellNumbers(args[1:])
	if err != nil {
		return err
	}
	var c wire.SequenceCreate
	if len(numbers) > 0 {
		c.Initial = numbers[0]
	}
	if len(numbers) > 1 {
		c.Increment = &numbers[1]
	}
	if len(numbers) > 2 {
		c.Maximum = &numbers[2]
	}
	seq, err := s.client.SequenceCreate(ctx, args[0], c)
	if err != nil {
		return err
	}
	return s.saySequence(seq, "created")
}

func (s *shell) saySequence(q wire.Sequence, action string) error {
	maximum := "-"
	if q.Maximum != nil {
		maximum = strconv.FormatInt(*q.Maximum, 10)
	}
	return s.say(q, "r%d %s %s current %s increment %d max %s", q.Revision, s.paint(cyan, action),
		s.paint(pink, printable(q.Name)), s.paint(cyan, strconv.FormatInt(q.Current, 10)), q.Increment, maximum)
}

func (s *shell) getSequence(ctx context.Context, args []string) error {
	seq, err := s.client.SequenceGet(ctx, args[0])
	if errors.Is(err, client.ErrNotFound) {
		return s.say(nil, "%s", s.paint(yellow, "not found"))
	}
	if err != nil {
		return err
	}
	return s.saySequence(seq, "get")
}

func (s *shell) nextSequence(ctx context.Context, args []string) error {
	return s.reserve(ctx, "next", args[0], 1, args[1:])
}

func (s *shell) reserveSequence(ctx context.Context, args []string) error {
	count, err := shellNumbers(args[1:2])
	if err != nil {
		return err
	}
	return s.reserve(ctx, "reserved", args[0], count[0], args[2:])
}

// reserve prints no revision, which Kahuna's shell does: an allocation of this
// agent has none.
func (s *shell) reserve(ctx context.Context, action, name string, count int64, key []string) error {
	a, err := s.client.SequenceReserve(ctx, name, count, first(key))
	if err != nil {
		return err
	}
	what := s.paint(cyan, strconv.FormatInt(a.Start, 10))
	if a.Count != 1 {
		what = s.paint(cyan, fmt.Sprintf("%d..%d", a.Start, a.End)) + fmt.Sprintf(" count %d", a.Count)
	}
	return s.say(a, "%s %s %s", s.paint(cyan, action), s.paint(pink, printable(a.Name)), what)
}

func (s *shell) deleteSequence(ctx context.Context, args []string) error {
	err := s.client.SequenceDelete(ctx, args[0])
	if errors.Is(err, client.ErrNotFound) {
		return s.say(nil, "%s", s.paint(yellow, "not found"))
	}
	if err != nil {
		return err
	}
	return s.say(map[string]bool{"deleted": true}, "%s", s.paint(cyan, "deleted"))
}
