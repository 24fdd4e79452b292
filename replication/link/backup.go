package link

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kahu-sh/kahu/replication/stream"
)

// backupPieceBytes is what one message of a backup has at most.
const backupPieceBytes = 64 << 10

// backup streams this voter's state. Voters only: it has everything.
func (s *Server) backup(ctx context.Context, _ Identity, in *stream.Incoming) (stream.Message, error) {
	if s.o.Backup == nil {
		return nil, errNoVoter
	}
	return nil, s.o.Backup(ctx, pieces{in})
}

// pieces is a stream as an io.Writer.
type pieces struct{ in *stream.Incoming }

// Write implements io.Writer. It blocks while the other side does not read.
func (p pieces) Write(b []byte) (n int, err error) {
	for n < len(b) {
		piece := b[n:min(n+backupPieceBytes, len(b))]
		if err := p.in.Send(stream.Bytes(piece)); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// Backup writes a backup of node's state to out. For voters. It blocks until the
// last byte was written; an error may come after a part of it.
func (p *Pool) Backup(ctx context.Context, node string, out io.Writer) error {
	c, err := p.voter(ctx, node)
	if err != nil {
		return err
	}
	s, err := c.Open(ctx, methodBackup, nil)
	if err != nil {
		return fromWire(node, err)
	}
	defer s.Close()
	for {
		piece, err := s.Recv(ctx)
		if errors.Is(err, io.EOF) && !errors.Is(err, stream.ErrBroken) {
			return nil
		}
		if err != nil {
			return fromWire(node, err)
		}
		if _, err := out.Write(piece); err != nil {
			return fmt.Errorf("writing a backup of node %s: %w", node, err)
		}
	}
}
