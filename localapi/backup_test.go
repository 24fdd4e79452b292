package localapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// backingUp has the agent give backups.
func backingUp(f func(context.Context, io.Writer) error) tweak {
	return func(c *localapi.Config) { c.Backup = f }
}

func TestBackup(t *testing.T) {
	whole := strings.Repeat("backup ", 1<<17)
	a := startAgent(t, backingUp(func(_ context.Context, out io.Writer) error {
		_, err := io.Copy(out, strings.NewReader(whole))
		return err
	}))
	var got bytes.Buffer
	n, err := a.client(t).Backup(t.Context(), &got)
	if err != nil || n != int64(len(whole)) || got.String() != whole {
		t.Errorf("%d of %d bytes, %v", n, len(whole), err)
	}
}

// Each way in which a backup does not come is told by its own error.
func TestBackupErrors(t *testing.T) {
	part := func(_ context.Context, out io.Writer) error {
		_, _ = out.Write(make([]byte, 1<<16))
		return errors.New("the disk is on fire")
	}
	for _, c := range []struct {
		name    string
		options []tweak
		want    error
	}{
		{"no backups here", nil, client.ErrNotFound},
		{"a proxy", []tweak{backingUp(func(context.Context, io.Writer) error { return wire.Refuse(wire.Denied, "a proxy") })}, client.ErrDenied},
		{"no quorum", []tweak{backingUp(func(context.Context, io.Writer) error { return replication.ErrUnavailable })}, client.ErrUnavailable},
		{"cut off", []tweak{backingUp(part)}, client.ErrUnavailable},
		{"not an administrator", []tweak{backingUp(part), allowing(own(policy.Read, policy.Write))}, client.ErrDenied},
		{"an administrator of a prefix", []tweak{backingUp(part),
			allowing(policy.Rule{Everyone: true, Prefixes: []string{"a/"}, Allow: []policy.Verb{policy.Admin}})}, client.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := startAgent(t, c.options...)
			_, err := a.client(t).Backup(t.Context(), io.Discard)
			wantError(t, err, c.want)
		})
	}
	_, err := client.New(client.Options{Socket: t.TempDir() + "/none"}).Backup(t.Context(), io.Discard)
	wantError(t, err, client.ErrNoAgent)
}
