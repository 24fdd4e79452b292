package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

const (
	envPrefix    = "KAHU_"
	rootFile     = "/etc/kahu/kahu.yaml"
	configFlag   = "config"
	configEnv    = "KAHU_CONFIG"
	keyDelimiter = "."
)

// AddFlags registers --config and a flag for every key that can be one. Limits,
// timeouts and the policy are in the file only.
func AddFlags(fs *pflag.FlagSet) {
	d := Defaults()
	fs.String(configFlag, "", "YAML `file` (default /etc/kahu/kahu.yaml for root, $XDG_CONFIG_HOME/kahu/kahu.yaml otherwise, if it exists)")
	fs.String("node-name", "", "`name` of this agent, for people (default the host name)")
	fs.String("data-dir", "", "`directory` of a voter's state (default /var/lib/kahu, or $XDG_STATE_HOME/kahu for a user)")
	fs.String("socket", "", "Unix socket for applications (default /run/kahu/kahu.sock, or $XDG_RUNTIME_DIR/kahu/kahu.sock for a user)")
	fs.String("role", d.Role, "`role`: auto votes when the cluster needs it, voter always, proxy never")
	fs.String("storage", d.Storage, "`engine`: memory, sqlite or rocksdb")
	fs.String("bind", d.Bind, "`HOST:PORT` to listen on for other agents")
	fs.String("advertise", "", "`HOST:PORT` at which others reach this agent (default bind)")
	fs.StringSlice("join", nil, "`HOST:PORT` of other agents, or a cloud's list of them such as \"provider=k8s label_selector=app=kahu\"; repeated or with commas")
	fs.Int("bootstrap-expect", d.BootstrapExpect, "form a new cluster of so many voters")
	fs.Int("voters", d.Voters, "`number` of voters that the cluster keeps, of its agents with role auto: 3 or 5")
	fs.String("zone", "", "`name` of the rack, zone or site of this host; voters are spread over them")
	fs.String("gossip", d.Gossip, "`distance` between agents: lan, wan or local; off: they are found by --join alone")
	fs.String("secret-file", "", "`file` with the cluster secret, the same on all agents (default secret in data-dir)")
	fs.String("tls-cert", "", "PEM `file` with this agent's certificate from an own PKI, instead of one made from the secret")
	fs.String("tls-key", "", "PEM `file` with its key")
	fs.String("tls-ca", "", "PEM `file`: who signs the certificates of all agents")
	fs.String("tls-crl", "", "PEM or DER `file` with the certificates that its issuers have revoked (default none)")
	fs.Bool("tls-accept-secret", false, "take agents without certificates of the own PKI as well, by the secret: while hosts move from the one to the other")
	fs.String("tls-voter-name", d.TLSVoterName, "DNS `name` or URI in a certificate of an own PKI that makes its bearer a voter")
	fs.String("tls-proxy-name", d.TLSProxyName, "DNS `name` or URI in a certificate of an own PKI that makes its bearer a proxy")
	fs.String("http", "", "`HOST:PORT` for health checks and metrics over TCP (default off)")
	fs.StringSlice("kahuna-listen", nil, "`HOST:PORT` or port for Kahuna's clients over TCP, gRPC and REST on each, or \"default\" for 2070, 2071 and 2072; http://HOST:PORT without TLS, for a proxy that ends it; repeated or with commas (default off)")
	fs.String("kahuna-tls-cert", "", "PEM `file` with the certificate for Kahuna's clients (default one that the agent makes)")
	fs.String("kahuna-tls-key", "", "PEM `file` with its key")
	fs.String("kahuna-client-ca", "", "PEM `file`: trust Kahuna's clients with a certificate signed by it, as the policy says")
	fs.String("kahuna-token-file", "", "`file`: trust Kahuna's clients with a bearer token of it; see kahu token")
	fs.Bool("kahuna-insecure", d.KahunaInsecure, "trust everybody who reaches kahuna-listen, in clear text; a port alone is then on 127.0.0.1")
	fs.String("kahuna-advertise", "", "`URL` that Kahuna's clients on other hosts are sent to while this agent leads (default the first kahuna-listen)")
	fs.StringSlice("upstream", nil, "`URL` of a server of a Kahuna cluster that this agent stands in front of, instead of kahu's own; repeated or with commas (upstream mode)")
	fs.String("upstream-ca-file", "", "PEM `file`: who signs the certificates of upstream (default the system's roots)")
	fs.String("upstream-cert-file", "", "PEM `file` with the certificate that this agent shows to upstream")
	fs.String("upstream-key-file", "", "PEM `file` with its key")
	fs.String("upstream-token-file", "", "`file` with a bearer token for upstream")
	fs.Bool("dev", d.Dev, "one voter in memory that leaves nothing behind")
	fs.Bool("allow-volatile", d.AllowVolatile, "let a voter live on tmpfs or an overlay, for tests: it forgets its votes with its disk")
	fs.Int("feature-level-cap", d.FeatureLevelCap, "know no feature level above this `number`, as an earlier kahu: the cluster can go back to that one; 0 for no cap")
	fs.String("log-level", d.LogLevel, "debug, info, warn or error")
	fs.String("log-format", d.LogFormat, "text or json")
	fs.String("min-free", d.MinFree, "with less `space` left on the data directory's disk, refuse writes; 0 for never")
}

// Load reads all sources and checks the result. The error is Problems when the
// configuration is wrong, with everything that is wrong. fs needs the flags of
// AddFlags, parsed; nil means no flags.
func Load(host Host, fs *pflag.FlagSet) (Config, error) {
	src := newSources()
	path, problems := src.loadFile(host, fs)
	warnings, more := src.loadEnv(host.Environ)
	problems = append(problems, more...)
	if err := src.loadFlags(fs); err != nil {
		return Config{}, err
	}
	f, more := src.file()
	problems = append(problems, more...)
	cfg, more := Check(f, host)
	problems = append(problems, more...)
	if len(problems) > 0 {
		return Config{}, src.name(problems)
	}
	cfg.Path = path
	cfg.Warnings = append(warnings, cfg.Warnings...)
	return cfg, nil
}

// sources merges the layers and remembers where each key came from.
type sources struct {
	merged *koanf.Koanf
	from   map[string]string // key → the last source that set it
}

func newSources() *sources {
	return &sources{merged: koanf.New(keyDelimiter), from: map[string]string{}}
}

// add merges one layer; where names the source of a key for people.
func (s *sources) add(layer *koanf.Koanf, where func(key string) string) error {
	for _, key := range layer.Keys() {
		s.from[key] = where(key)
	}
	return s.merged.Merge(layer)
}

// loadFile finds and reads the YAML file. A file that was named must exist.
func (s *sources) loadFile(host Host, fs *pflag.FlagSet) (string, Problems) {
	path, named := configPath(host, fs)
	if path == "" {
		return "", nil
	}
	layer := koanf.New(keyDelimiter)
	err := layer.Load(file.Provider(path), &yamlFile{})
	if errors.Is(err, os.ErrNotExist) && !named {
		return "", nil
	}
	if err == nil {
		err = s.add(layer, func(string) string { return path })
	}
	if err != nil {
		return path, Problems{{Text: fmt.Sprintf("reading the configuration file %s: %v", path, err)}}
	}
	return path, nil
}

func configPath(host Host, fs *pflag.FlagSet) (path string, named bool) {
	if fs != nil {
		if f := fs.Lookup(configFlag); f != nil && f.Changed {
			return f.Value.String(), true
		}
	}
	if p := host.getenv(configEnv); p != "" {
		return p, true
	}
	if host.UID == 0 {
		return rootFile, false
	}
	dir := host.getenv("XDG_CONFIG_HOME")
	if dir == "" && host.HomeDir != "" {
		dir = filepath.Join(host.HomeDir, ".config")
	}
	if dir == "" {
		return "", false
	}
	return filepath.Join(dir, "kahu", "kahu.yaml"), false
}

// loadEnv takes KAHU_BIND for bind, for every key that is also a flag. An empty
// variable counts as not set. Unknown ones are only warned of: kahu exec sets
// some for its command, and Kubernetes sets KAHU_SERVICE_HOST and the like in
// every pod beside a service named kahu.
func (s *sources) loadEnv(environ []string) (warnings []string, problems Problems) {
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(known)
	layer := koanf.New(keyDelimiter)
	err := layer.Load(env.Provider(keyDelimiter, env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(k, v string) (string, any) {
			key := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k, envPrefix)), "_", "-")
			switch {
			case v == "" || k == configEnv || foreignVariable(k):
				return "", nil
			case k == "KAHU_SECRET":
				problems = append(problems, Problem{Key: "secret-file", Source: k,
					Text: "a secret in the environment is inherited by every child; write it to a file and set KAHU_SECRET_FILE"})
				return "", nil
			case known.Lookup(key) == nil:
				warnings = append(warnings, fmt.Sprintf("the environment variable %s is not known and was ignored", k))
				return "", nil
			}
			return key, v
		},
	}), nil)
	if err == nil {
		err = s.add(layer, envName)
	}
	if err != nil {
		problems = append(problems, Problem{Text: fmt.Sprintf("reading the environment: %v", err)})
	}
	slices.Sort(warnings)
	return warnings, problems
}

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// foreignVariable reports whether KAHU_… belongs to somebody else: kahu exec's
// own variables, and those that Kubernetes makes for a service named kahu.
func foreignVariable(name string) bool {
	switch name {
	case "KAHU_LOCK", "KAHU_FENCING_TOKEN", "KAHU_HOLD", "KAHU_PORT":
		return true
	}
	return strings.HasPrefix(name, "KAHU_SERVICE_") || strings.HasPrefix(name, "KAHU_PORT_")
}

// loadFlags takes the flags that were given; defaults of flags are for --help.
func (s *sources) loadFlags(fs *pflag.FlagSet) error {
	if fs == nil {
		return nil
	}
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(known)
	layer := koanf.New(keyDelimiter)
	err := layer.Load(posflag.ProviderWithFlag(fs, keyDelimiter, nil, func(f *pflag.Flag) (string, any) {
		if f.Name == configFlag || known.Lookup(f.Name) == nil {
			return "", nil // another command's flag, such as --help
		}
		return f.Name, posflag.FlagVal(fs, f)
	}), nil)
	if err == nil {
		err = s.add(layer, func(key string) string { return "--" + key })
	}
	if err != nil {
		return fmt.Errorf("reading the flags: %w", err)
	}
	return nil
}

// file decodes what was merged over the defaults. Unknown keys and values of
// the wrong kind are problems; the keys that are left keep their defaults.
func (s *sources) file() (File, Problems) {
	f := Defaults()
	err := s.merged.UnmarshalWithConf("", &f, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &f, WeaklyTypedInput: true, TagName: "koanf",
		MatchName:  func(key, field string) bool { return key == field }, // exact: Data-Dir is unknown
		DecodeHook: mapstructure.DecodeHookFuncType(listFromText),
	}})
	var problems Problems
	for _, one := range decodeErrors(err) {
		problems = append(problems, Problem{Key: one.Name(), Text: readable(one.Unwrap())})
	}
	if err != nil && len(problems) == 0 {
		problems = append(problems, Problem{Text: err.Error()})
	}
	for _, key := range unknownKeys("", s.merged.Raw(), reflect.TypeFor[File]()) {
		problems = append(problems, Problem{Key: key, Text: unknownKeyText(key)})
	}
	return f, problems
}

// unknownKeys finds the keys of v that t has no field for, below prefix, sorted.
// The decoder could report them as well, but not beside a value that it refuses.
func unknownKeys(prefix string, v any, t reflect.Type) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil // the decoder refuses it
		}
		known := map[string]reflect.Type{}
		for i := range t.NumField() {
			known[t.Field(i).Tag.Get("koanf")] = t.Field(i).Type
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if field, ok := known[key]; ok {
				out = append(out, unknownKeys(prefix+key+keyDelimiter, v[key], field)...)
			} else {
				out = append(out, prefix+key)
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, item := range v {
			at := fmt.Sprintf("%s[%d]%s", strings.TrimSuffix(prefix, keyDelimiter), i, keyDelimiter)
			out = append(out, unknownKeys(at, item, t.Elem())...)
		}
	}
	return out
}

// listFromText splits "a, b" where a list is wanted: the environment has no lists.
func listFromText(from, to reflect.Type, v any) (any, error) {
	if from.Kind() != reflect.String || to != reflect.TypeFor[[]string]() {
		return v, nil
	}
	out := []string{}
	for part := range strings.SplitSeq(reflect.ValueOf(v).String(), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out, nil
}

// decodeErrors finds every *DecodeError below err, the deepest of each chain.
func decodeErrors(err error) []*mapstructure.DecodeError {
	switch e := err.(type) {
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var out []*mapstructure.DecodeError
		for _, one := range e.Unwrap() {
			out = append(out, decodeErrors(one)...)
		}
		return out
	case *mapstructure.DecodeError:
		if below := decodeErrors(e.Unwrap()); len(below) > 0 {
			return below
		}
		return []*mapstructure.DecodeError{e}
	}
	return decodeErrors(errors.Unwrap(err))
}

// readable turns a decoding error into a sentence about the file.
func readable(err error) string {
	var parse *mapstructure.ParseError
	if errors.As(err, &parse) {
		return fmt.Sprintf("%q is not %s", fmt.Sprint(parse.Value), kindText(parse.Expected.Kind()))
	}
	var kind *mapstructure.UnconvertibleTypeError
	if errors.As(err, &kind) {
		return fmt.Sprintf("%v is not %s", kind.Value, kindText(kind.Expected.Kind()))
	}
	return err.Error()
}

func kindText(k reflect.Kind) string {
	switch k {
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Slice:
		return "a list"
	}
	return "a group of keys"
}

func unknownKeyText(key string) string {
	if key == "secret" {
		return "secrets are never values in this file; write it to a file and set secret-file"
	}
	return "this key is not known; kahu agent --print-config shows all keys"
}

// name fills in where each problem's value came from, and sorts by key order.
func (s *sources) name(problems Problems) Problems {
	for i := range problems {
		p := &problems[i]
		if p.Source == "" {
			p.Source = s.source(p.Key)
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return keyRank(a.Key) - keyRank(b.Key) })
	return slices.Compact(problems)
}

// source finds the source of a key or of what it is part of: policy for policy[1].users.
func (s *sources) source(key string) string {
	for key != "" {
		if where, ok := s.from[key]; ok {
			return where
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return ""
}

// keyRank is the position of a key's first part in File; unknown ones come last,
// problems without a key first.
func keyRank(key string) int {
	if key == "" {
		return -1
	}
	if i := strings.IndexAny(key, ".["); i >= 0 {
		key = key[:i]
	}
	t := reflect.TypeFor[File]()
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("koanf") == key {
			return i
		}
	}
	return t.NumField()
}

func (h Host) getenv(name string) string {
	for _, kv := range h.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
