package token

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/policy"
)

const (
	fileFormat = 1
	// MaxFileBytes is the largest token file that is read.
	MaxFileBytes = 4 << 20
	// MaxTokens is how many tokens a file may have.
	MaxTokens = 10_000
	// MaxNameBytes is the longest name of a token.
	MaxNameBytes = 128

	scheme      = "kahu_"
	idBytes     = 8
	secretBytes = 32
)

// Entry is one token as the file has it.
type Entry struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256"` // of the whole token, in hexadecimal
	Created time.Time `json:"created"`
	// Expires is when it ends by the wall clock; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Allow and Prefixes are the token's own rule, as those of the policy. Without
	// Allow only rules that name the token count.
	Allow    []string `json:"allow,omitempty"`
	Prefixes []string `json:"prefixes,omitempty"`
}

// document is the file.
type document struct {
	Format int     `json:"format"`
	Tokens []Entry `json:"tokens"`
}

// Set is the content of one token file. It is immutable.
type Set struct {
	entries []Entry
	byID    map[string]*known
}

// known is an entry, understood.
type known struct {
	Entry
	hash [sha256.Size]byte
	own  *policy.Policy // nil: no rule of its own
}

// Parse reads a token file and checks all of it. The error is one line.
func Parse(data []byte) (*Set, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("it has %d bytes, and the limit is %d", len(data), MaxFileBytes)
	}
	var doc document
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields() // a misspelt "prefixes" would allow more than was meant
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("it is no token file: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after its end")
	}
	switch {
	case doc.Format > fileFormat:
		return nil, fmt.Errorf("its format is %d, and this version of kahu knows up to %d: use a newer kahu", doc.Format, fileFormat)
	case doc.Format < 1:
		return nil, fmt.Errorf("its format is %d", doc.Format)
	case len(doc.Tokens) > MaxTokens:
		return nil, fmt.Errorf("it has %d tokens, and the limit is %d", len(doc.Tokens), MaxTokens)
	}
	s := &Set{entries: doc.Tokens, byID: make(map[string]*known, len(doc.Tokens))}
	names := make(map[string]bool, len(doc.Tokens))
	for i, e := range doc.Tokens {
		k, err := understand(e)
		if err == nil && (s.byID[e.ID] != nil || names[e.Name]) {
			err = errors.New("its id or name is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("token %d (%.40q): %w", i+1, e.Name, err)
		}
		s.byID[e.ID], names[e.Name] = k, true
	}
	return s, nil
}

func understand(e Entry) (*known, error) {
	k := &known{Entry: e}
	if err := checkName(e.Name); err != nil {
		return nil, err
	}
	if !isID(e.ID) {
		return nil, fmt.Errorf("its id is not %d hexadecimal digits", 2*idBytes)
	}
	hash, err := hex.DecodeString(e.SHA256)
	if err != nil || len(hash) != sha256.Size {
		return nil, fmt.Errorf("its sha256 is not %d hexadecimal digits", 2*sha256.Size)
	}
	copy(k.hash[:], hash)
	if len(e.Allow) == 0 {
		if len(e.Prefixes) > 0 {
			return nil, errors.New("it has prefixes, but allows nothing there")
		}
		return k, nil
	}
	rule := policy.Rule{Tokens: []string{"*"}, Prefixes: e.Prefixes}
	for _, v := range e.Allow {
		rule.Allow = append(rule.Allow, policy.Verb(v))
	}
	own, err := policy.New([]policy.Rule{rule})
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(strings.ReplaceAll(err.Error(), "policy rule 1: ", ""), "\n", "; "))
	}
	k.own = own
	return k, nil
}

func checkName(name string) error {
	if name == "" || len(name) > MaxNameBytes || name == "*" {
		return fmt.Errorf("a name has 1 to %d bytes, and is not *", MaxNameBytes)
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || r == '\uFFFD' {
			return errors.New("a name has no spaces and no control characters")
		}
	}
	return nil
}

func isID(id string) bool {
	return len(id) == 2*idBytes && strings.Trim(id, "0123456789abcdef") == ""
}

// Verify returns the entry that the text is the token of, if it has not expired at
// now.
func (s *Set) Verify(text string, now time.Time) (Entry, bool) {
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok || len(rest) != 2*idBytes+1+base64.RawURLEncoding.EncodedLen(secretBytes) {
		return Entry{}, false
	}
	k := s.byID[rest[:2*idBytes]]
	if k == nil {
		return Entry{}, false
	}
	hash := sha256.Sum256([]byte(text))
	if subtle.ConstantTimeCompare(hash[:], k.hash[:]) != 1 || k.expired(now) {
		return Entry{}, false
	}
	return k.Entry, true
}

func (e *Entry) expired(now time.Time) bool { return !e.Expires.IsZero() && !now.Before(e.Expires) }

// generate makes a token.
func generate() (id, text string) {
	var b [idBytes + secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	id = hex.EncodeToString(b[:idBytes])
	return id, scheme + id + "_" + base64.RawURLEncoding.EncodeToString(b[idBytes:])
}
