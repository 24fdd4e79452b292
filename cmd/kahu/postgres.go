package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/integrations/postgres"
)

func newPostgresCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "postgres",
		Short: "Print the SQL with which PostgreSQL refuses stale fencing tokens",
		Long: `Print the SQL with which PostgreSQL refuses stale fencing tokens.

A worker that was paused past its lease does not know that another holds the lock
now. With this, the database knows: it keeps the highest token it has seen of each
lock, and lets no lower one change the tables that the lock protects.

The head of the file says what it promises and how a worker uses it.`,
		Example: `  kahu postgres | psql
  psql -c "SELECT kahu.protect('public.ledger', 'billing')" -c "GRANT kahu_writer TO app"

  # In a command that kahu exec --lock billing runs:
  export PGOPTIONS="-c kahu.lock=$KAHU_LOCK -c kahu.token=$KAHU_FENCING_TOKEN"
  psql -c "CALL kahu.enter()" -c "INSERT INTO ledger VALUES (1)"`,
		Args: arguments(),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(g.stdout, postgres.FencingSQL)
			return err
		},
	}
}
