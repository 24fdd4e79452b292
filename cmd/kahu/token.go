package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/localapi/token"
)

// tokenFileEnv is what the agent reads for --kahuna-token-file.
const tokenFileEnv = "KAHU_KAHUNA_TOKEN_FILE"

// tokenOptions are the flags of kahu token.
type tokenOptions struct {
	file     string
	allow    []string
	prefixes []string
	expires  time.Duration
}

// shownToken is a token as it is shown: without what proves it, but once.
type shownToken struct {
	Name     string     `json:"name"`
	ID       string     `json:"id"`
	Token    string     `json:"token,omitempty"` // only when it was made
	Created  time.Time  `json:"created"`
	Expires  *time.Time `json:"expires,omitempty"`
	Expired  bool       `json:"expired,omitempty"`
	Allow    []string   `json:"allow,omitempty"`
	Prefixes []string   `json:"prefixes,omitempty"`
}

// shownTokens are those of a file.
type shownTokens struct {
	Tokens []shownToken `json:"tokens"`
}

func showToken(e token.Entry, now time.Time) shownToken {
	s := shownToken{Name: e.Name, ID: e.ID, Created: e.Created, Allow: e.Allow, Prefixes: e.Prefixes}
	if !e.Expires.IsZero() {
		s.Expires, s.Expired = &e.Expires, !now.Before(e.Expires)
	}
	return s
}

func newTokenCommand(g *globals) *cobra.Command {
	var o tokenOptions
	create := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and show it, once",
		Long: `Make a token and show it, once: the file keeps a hash of it.

--allow and --prefix are what its holder may do. Without --allow only rules of
the agent's policy count that name the token (tokens: [NAME]).`,
		Example: `  kahu token create ci --file /etc/kahu/tokens --allow lock,read --prefix ci/
  kahu token create billing --file /etc/kahu/tokens --allow admin --expires 2160h --output json`,
		Args: arguments("NAME"),
		RunE: func(_ *cobra.Command, args []string) error { return o.create(g, args[0]) },
	}
	create.Flags().StringSliceVar(&o.allow, "allow", nil, "`verbs`: read, write, lock, sequence or admin; repeated or with commas")
	create.Flags().StringSliceVar(&o.prefixes, "prefix", nil, "only names that begin with this `text`; repeated or with commas")
	create.Flags().DurationVar(&o.expires, "expires", 0, "after this `duration`, such as 2160h; 0 is never")
	list := &cobra.Command{
		Use: "list", Short: "Show the tokens of the file, but not what proves them", Args: arguments(),
		Example: "  kahu token list --file /etc/kahu/tokens",
		RunE:    func(*cobra.Command, []string) error { return o.list(g) },
	}
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "Take a token out of the file: within a second it is worth nothing", Args: arguments("NAME"),
		Example: "  kahu token revoke ci --file /etc/kahu/tokens",
		RunE:    func(_ *cobra.Command, args []string) error { return o.revoke(g, args[0]) },
	}
	cmd := group("token", "Make and revoke bearer tokens for Kahuna's clients", create, list, revoke)
	cmd.Long = `Make and revoke bearer tokens for Kahuna's clients, in the file that the agent
was given as --kahuna-token-file. Running agents see a change within a second.
Clients send "Authorization: Bearer TOKEN".`
	cmd.PersistentFlags().StringVar(&o.file, "file", "", "token `file` (default $"+tokenFileEnv+")")
	return cmd
}

// path is the file, from the flag or the environment.
func (o *tokenOptions) path() (string, error) {
	if o.file != "" {
		return o.file, nil
	}
	if path := os.Getenv(tokenFileEnv); path != "" {
		return path, nil
	}
	return "", usageError("which file? Say --file, the one that the agent was given as --kahuna-token-file")
}

func (o *tokenOptions) create(g *globals, name string) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	if o.expires < 0 {
		return usageError(fmt.Sprintf("--expires is %s; it cannot be in the past", o.expires))
	}
	now := time.Now()
	e := token.Entry{Name: name, Allow: o.allow, Prefixes: o.prefixes}
	if o.expires > 0 {
		e.Expires = now.Add(o.expires).UTC().Truncate(time.Second)
	}
	text, made, err := token.Create(path, e, now)
	if errors.Is(err, token.ErrInvalid) {
		return withCode(exitUsage, err)
	}
	if err != nil {
		return withCode(exitRefused, err)
	}
	shown := showToken(made, now)
	shown.Token = text
	return g.show(shown, line("%s", text))
}

func (o *tokenOptions) list(g *globals) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	entries, err := token.List(path)
	if err != nil {
		return withCode(exitConfig, err)
	}
	now := time.Now()
	shown := make([]shownToken, 0, len(entries))
	for _, e := range entries {
		shown = append(shown, showToken(e, now))
	}
	return g.show(shownTokens{shown}, table("NAME\tID\tEXPIRES\tALLOWS", func(add func(...string)) {
		for _, s := range shown {
			until := "never"
			switch {
			case s.Expired:
				until = "EXPIRED " + s.Expires.Format(time.DateTime)
			case s.Expires != nil:
				until = s.Expires.Format(time.DateTime)
			}
			may := "as the policy says"
			if len(s.Allow) > 0 {
				may = strings.Join(s.Allow, ",")
			}
			if len(s.Prefixes) > 0 {
				may += " below " + printable(strings.Join(s.Prefixes, " "))
			}
			add(printable(s.Name), s.ID, until, may)
		}
	}))
}

func (o *tokenOptions) revoke(g *globals, name string) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	switch err := token.Revoke(path, name); {
	case errors.Is(err, token.ErrNoToken):
		return withCode(exitNotFound, err)
	case err != nil:
		return withCode(exitConfig, err)
	}
	return g.show(map[string]string{"revoked": name}, line("%s revoked", name))
}
