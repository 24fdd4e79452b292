package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kahu-sh/kahu/agent/secret"
)

// The values of keygen --for.
const (
	forVoter = "voter"
	forProxy = "proxy"
)

// madeSecret is what keygen tells of the secret: the secret itself only when it
// is stored nowhere else.
type madeSecret struct {
	File    string   `json:"file,omitempty"`
	For     string   `json:"for"`
	ID      string   `json:"id"`                // public name, the same for a voter's secret and the proxy's derived from it
	Secrets []string `json:"secrets,omitempty"` // lines of a secret file; of several the first is used
}

func newKeygenCommand(g *globals) *cobra.Command {
	var role, from string
	cmd := &cobra.Command{
		Use:   "keygen [FILE]",
		Short: "Make a cluster secret",
		Long: `Make a cluster secret, in FILE (mode 0600, never overwritten) or on standard
output. Agents with the same secret trust each other.

Who has a voter's secret is root of the cluster. Hosts that only run proxies
need no more than a proxy's secret, which is derived from the voter's.

To change the secret of a cluster at work, make a new one and go through the secret
files of all hosts three times, each time to the end:
  1. add the line of the new one below that of the old one: both are accepted;
  2. put the new one above the old one: it is used;
  3. take the old one out.
Hosts with a proxy's secret get the lines of the proxy's secret made from the new one.
An agent looks at its file every few seconds (a systemd credential is read when it
starts: restart it, locks stay held). It takes a step only when all the others have
taken the one before, and says in its log whom it waits for; kahu cluster members
--output json shows what each accepts (key_ids). An agent that it waits for in vain,
or that is to be shut out, holds up nothing when the others are restarted: the file
counts as it is then.`,
		Example: `  kahu keygen /etc/kahu/secret
  kahu keygen --for proxy --from /etc/kahu/secret /etc/kahu/proxy-secret`,
		Args: optionalArgument("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			secrets, err := makeSecrets(role, from)
			if err != nil {
				return err
			}
			return g.storeSecrets(first(args), role, secrets)
		},
	}
	cmd.Flags().StringVar(&role, "for", forVoter, "`role` of the agents that it is for: voter or proxy")
	cmd.Flags().StringVar(&from, "from", "", "derive it from the voter's secret in this `file`")
	return cmd
}

// makeSecrets makes a new one, or derives those of a file.
func makeSecrets(role, from string) ([]secret.Secret, error) {
	switch {
	case role != forVoter && role != forProxy:
		return nil, usageError(fmt.Sprintf("--for is %q; it is voter or proxy", role))
	case role == forVoter && from != "":
		return nil, usageError("--from derives a proxy's secret: add --for proxy, or copy the file as it is")
	case role == forVoter:
		return []secret.Secret{secret.Generate()}, nil
	case from == "":
		return nil, usageError("--for proxy needs --from FILE: a proxy's secret is derived from the voter's")
	}
	keys, err := secret.Read(from, secret.ForVoter)
	if _, proxys := secret.Read(from, secret.ForProxy); err != nil && proxys == nil {
		return nil, usageError(fmt.Sprintf("%s has a proxy's secret already: name the file of the voter's secret with --from, or copy this one as it is", from))
	}
	if err != nil {
		return nil, withCode(exitConfig, err)
	}
	var derived []secret.Secret
	for _, s := range keys.Secrets() {
		derived = append(derived, s.Proxy())
	}
	return derived, nil
}

// storeSecrets writes them to path, or to standard output.
func (g *globals) storeSecrets(path, role string, secrets []secret.Secret) error {
	if path == "" {
		made := madeSecret{For: role, ID: secrets[0].ID()}
		for _, s := range secrets {
			made.Secrets = append(made.Secrets, s.Line())
		}
		return g.show(made, line("%s", strings.Join(made.Secrets, "\n")))
	}
	if err := secret.Write(path, secrets...); errors.Is(err, fs.ErrExist) {
		return withCode(exitRefused, fmt.Errorf("%s exists already and was not touched: agents may use the secret in it; choose another name", path))
	} else if err != nil {
		return withCode(exitConfig, err)
	}
	made := madeSecret{File: path, For: role, ID: secrets[0].ID()}
	return g.show(made, func(w io.Writer) error {
		return line("%s secret %s written to %s; copy it to the other hosts over a safe channel", made.For, made.ID, made.File)(w)
	})
}
