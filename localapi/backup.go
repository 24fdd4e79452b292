package localapi

import (
	"context"
	"net/http"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// getBackup streams a backup of the whole cluster. Who may take one may read
// everything, so it asks for admin without a prefix. An error after the first
// byte can only cut the stream off; the backup's own end then is missing.
func (s *Server) getBackup(x *exchange) error {
	if err := (admission{s, x.who}).need(policy.Admin, ""); err != nil {
		return err
	}
	if s.cfg.Backup == nil {
		return wire.Refuse(wire.NotFound, "this agent takes no backups")
	}
	if !s.begin() {
		return replication.ErrStopped
	}
	defer s.serving.Done()
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()
	out := &backupBody{x: x, rc: http.NewResponseController(x.w)}
	err := s.cfg.Backup(ctx, out)
	if err == nil || !out.began {
		return err
	}
	s.cfg.Logger.Warn("a backup was cut off", "error", err)
	// Without the last chunk of the body the caller sees that something is missing.
	_ = out.rc.SetWriteDeadline(time.Unix(1, 0))
	return nil
}

// backupBody writes the answer's body, and gives its reader time with each piece.
type backupBody struct {
	x     *exchange
	rc    *http.ResponseController
	began bool
}

// Write implements io.Writer.
func (b *backupBody) Write(p []byte) (int, error) {
	if !b.began {
		b.x.w.Header().Set("Content-Type", "application/octet-stream")
		b.began = true
	}
	b.x.writeWithin(WriteTimeout)
	return b.x.w.Write(p)
}
