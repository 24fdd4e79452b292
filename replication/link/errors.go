package link

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Codes of stream.RemoteError between agents. Numbers are never reused.
const (
	codeNotLeader      uint32 = 1 // text: node id of the presumed leader
	codeUnavailable    uint32 = 2
	codeUnknownOutcome uint32 = 3
	codeStopped        uint32 = 4
	codeRefused        uint32 = 5
)

// toWire gives an error the code under which the other side knows it again.
func toWire(err error) *stream.RemoteError {
	var notLeader *replication.NotLeaderError
	switch {
	case errors.As(err, &notLeader):
		return &stream.RemoteError{Code: codeNotLeader, Text: notLeader.Leader}
	// Unknown comes before unavailable: of an error that is both, the worse counts.
	case errors.Is(err, replication.ErrUnknownOutcome):
		return &stream.RemoteError{Code: codeUnknownOutcome, Text: err.Error()}
	case errors.Is(err, replication.ErrUnavailable):
		return &stream.RemoteError{Code: codeUnavailable, Text: err.Error()}
	case errors.Is(err, replication.ErrStopped):
		return &stream.RemoteError{Code: codeStopped, Text: err.Error()}
	case errors.Is(err, ErrRefused):
		return &stream.RemoteError{Code: codeRefused, Text: strings.TrimPrefix(err.Error(), ErrRefused.Error()+": ")}
	}
	return &stream.RemoteError{Code: stream.CodeUnspecified, Text: err.Error()}
}

// fromWire is what the caller gets for an error of stream, asked of node.
func fromWire(node string, err error) error {
	var remote *stream.RemoteError
	if errors.As(err, &remote) {
		switch remote.Code {
		case codeNotLeader:
			return &replication.NotLeaderError{Leader: remote.Text}
		case codeUnavailable:
			return fmt.Errorf("node %s: %w", node, replication.ErrUnavailable)
		case codeUnknownOutcome:
			return fmt.Errorf("node %s: %w", node, replication.ErrUnknownOutcome)
		case codeStopped:
			// It stops, we do not: for us it is one that cannot be reached.
			return fmt.Errorf("node %s is stopping: %w", node, replication.ErrUnavailable)
		case codeRefused, stream.CodeNoHandler:
			return fmt.Errorf("node %s: %w: %s", node, ErrRefused, remote.Text)
		}
		return fmt.Errorf("node %s: %w", node, err)
	}
	if errors.Is(err, stream.ErrBroken) {
		err = fmt.Errorf("%w: node %s: %w", ErrBroken, node, err)
	} else {
		err = fmt.Errorf("asking node %s: %w", node, err)
	}
	if errors.Is(err, ErrNotSent) {
		// Certainly not carried out, which ErrUnavailable promises.
		err = fmt.Errorf("%w: %w", replication.ErrUnavailable, err)
	}
	return err
}
