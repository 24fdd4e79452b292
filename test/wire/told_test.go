package wire_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// A story is what one test of Kahuna.Client.Tests tells. It is told over gRPC and
// REST, at one endpoint, at a pool of three and at a proxy, also where Kahuna's own
// suite has fewer of them.
type story struct {
	// name is CLASS.METHOD there.
	name string
	// by are the further parameters.
	by   parameter
	tell func(*env)
}

// parameter is a set of what a story is told with, each value of it.
type parameter int

const (
	byDurability parameter = 1 << iota // else persistent, the clients' default
	byLocking                          // else as the story says
	byAsync                            // AsyncRelease of sessions
	// alone: the story looks at what the whole cluster shares, and is told while no
	// other is.
	alone
)

// stories are all of them.
func stories() []story {
	return slices.Concat(keyStories(), advancedStories(), errorStories(), cancelStories(), deleteManyStories(), lockStories(),
		holdStories(), sessionStories(), scriptStories(), anomalyStories())
}

// env is one telling.
type env struct {
	*testing.T
	c           *client
	d           durability
	pessimistic bool
	async       bool
}

// lockDurability is d, for locks.
func (e *env) lockDurability() pb.GrpcLockDurability { return pb.GrpcLockDurability(e.d) }

// proxied is the one endpoint that does not vote.
const proxied = "proxy"

// clients are the ways in which all stories are told.
func clients() map[string]func() *client {
	out := map[string]func() *client{}
	for over, t := range map[string]transport{"grpc": sharedRPC, "rest": sharedREST} {
		for at, urls := range map[string][]string{"one": agents.voters[:1], "pool": agents.voters, proxied: {agents.proxy}} {
			out[over+"/"+at] = func() *client { return &client{transport: t, urls: urls} }
		}
	}
	return out
}

func choose[T any](set bool, all map[string]T, single T) map[string]T {
	if set {
		return all
	}
	return map[string]T{"": single}
}

// TestKahunaClientTests tells every story in every way.
func TestKahunaClientTests(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			if s.by&alone == 0 {
				t.Parallel()
			}
			for how, client := range clients() {
				if s.by&byLocking != 0 && strings.HasPrefix(how, "rest/") && how != "rest/pool" {
					continue // Kahuna's own suite tells these over gRPC alone
				}
				durabilities := map[string]durability{"/ephemeral": 0, "/persistent": 1}
				if strings.HasSuffix(how, proxied) {
					delete(durabilities, "/ephemeral") // to a proxy both are alike
				}
				for d, durability := range choose(s.by&byDurability != 0, durabilities, 1) {
					for l, pessimistic := range choose(s.by&byLocking != 0, map[string]bool{"/optimistic": false, "/pessimistic": true}, false) {
						for a, async := range choose(s.by&byAsync != 0, map[string]bool{"/sync": false, "/async": true}, false) {
							t.Run(how+d+l+a, func(t *testing.T) {
								if s.by&alone == 0 {
									t.Parallel()
								}
								s.tell(&env{t, client(), durability, pessimistic, async})
							})
						}
					}
				}
			}
		})
	}
}

// notOurs are tests that send nothing to a server, or cannot tell what they are
// about: what they look at is within the .NET client.
var notOurs = map[string]string{
	"TestCancellationAndTimeouts.TestBatchCancellation_CancelledItemDoesNotFaultSiblings":             "a stream that is injected into the client's batcher",
	"TestCancellationAndTimeouts.TestCancelledToken_DoesNotLeakRequestRefs":                           "the client's table of pending requests, and a URL that nobody answers",
	"TestCancellationAndTimeouts.TestDefaultDeadline_TimesOutWhenServerDoesNotRespond":                "a stream that is injected into the client's batcher",
	"TestCertValidation.BuildCertValidationCallback_AcceptsAll_WhenInsecureFlagSet":                   "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_AcceptsCert_WhenThumbprintMatches":                "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_AcceptsCert_WhenThumbprintMatchesCaseInsensitive": "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_RejectsCert_WhenThumbprintDoesNotMatch":           "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_RejectsNull_WhenThumbprintsConfigured":            "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_ReturnsNull_ForNullOptions":                       "which certificates the client takes",
	"TestCertValidation.BuildCertValidationCallback_ReturnsNull_WhenNeitherFlagSet":                   "which certificates the client takes",
	"TestCertValidation.MakeCacheKey_AppendsInsecureSuffix":                                           "how the client names its channels",
	"TestCertValidation.MakeCacheKey_AppendsPinSuffix_AndIsDeterministic":                             "how the client names its channels",
	"TestCertValidation.MakeCacheKey_AppendsPoolSuffix_WhenPoolSizeDiffersFromDefault":                "how the client names its channels",
	"TestCertValidation.MakeCacheKey_ClampsZeroPoolSizeToOne":                                         "how the client names its channels",
	"TestCertValidation.MakeCacheKey_CombinesPoolSizeAndTlsPolicy":                                    "how the client names its channels",
	"TestCertValidation.MakeCacheKey_DifferentPolicies_ProduceDifferentKeys":                          "how the client names its channels",
	"TestCertValidation.MakeCacheKey_DifferentPoolSizes_ProduceDifferentKeys":                         "how the client names its channels",
	"TestCertValidation.MakeCacheKey_ReturnsUrl_ForNullOptions":                                       "how the client names its channels",
	"TestCertValidation.MakeCacheKey_ReturnsUrl_WhenNeitherFlagSet":                                   "how the client names its channels",
	"TestCertValidation.MakeCacheKey_ReturnsUrl_WhenPoolSizeIsDefault":                                "how the client names its channels",
	"TestClientValueParsing.ValueAsBool_ParsesValidBooleans":                                          "how the client reads a value as a boolean",
	"TestClientValueParsing.ValueAsBool_ThrowsOnMalformed":                                            "how the client reads a value as a boolean",
	"TestClientValueParsing.ValueAsBool_ThrowsOnNull":                                                 "how the client reads a value as a boolean",
	"TestClientValueParsing.ValueAsLong_ParsesValidIntegers":                                          "how the client reads a value as a number",
	"TestClientValueParsing.ValueAsLong_ThrowsOnMalformed":                                            "how the client reads a value as a number",
	"TestClientValueParsing.ValueAsLong_ThrowsOnNull":                                                 "how the client reads a value as a number",
}

// elsewhere are told by a test of their own, since they need another agent.
var elsewhere = map[string]func(*testing.T){
	"TestTransactionAdmissionRefusal.TestSaturatedNodeRefusesAdmissionDistinctly":            TestSaturatedNodeRefusesAdmissionDistinctly,
	"TestTransactionAdmissionRefusal.TestAdmissionWaitIsHonouredRatherThanTheSessionTimeout": TestAdmissionWaitIsHonouredRatherThanTheSessionTimeout,
}

// TestEveryTestIsTold: each test of Kahuna.Client.Tests is a story here, or there is
// a reason why not, and no story is of a test that does not exist.
func TestEveryTestIsTold(t *testing.T) {
	f, err := os.Open("testdata/kahuna-client-tests.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	listed := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name := lines.Text(); name != "" && !strings.HasPrefix(name, "#") {
			listed[name] = true
		}
	}
	if len(listed) != 154 {
		t.Errorf("%d tests are listed; Kahuna.Client.Tests had 154 when they were", len(listed))
	}
	how := map[string]int{}
	for _, s := range stories() {
		how[s.name]++
	}
	for name := range notOurs {
		how[name]++
	}
	for name := range elsewhere {
		how[name]++
	}
	for name := range listed {
		if how[name] != 1 {
			t.Errorf("%s is told %d times, or excused as often: once is right", name, how[name])
		}
	}
	for name := range how {
		if !listed[name] {
			t.Errorf("Kahuna.Client.Tests has no test %s", name)
		}
	}
}

// ok fails the story when a client would have thrown.
func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// throws wants a KahunaException with one of some codes.
func (e *env) throws(err error, codes ...int32) {
	e.Helper()
	var k *kahunaError
	if !errors.As(err, &k) || !slices.Contains(codes, k.code) {
		e.Fatalf("it ended with %v, and one of the codes %v is expected", err, codes)
	}
}

// is checks success and revision of an answer.
func (e *env) is(what string, got entry, success bool, revision int64) {
	e.Helper()
	if got.success != success || got.revision != revision {
		e.Fatalf("%s: success is %v at revision %d, and %v at %d is expected", what, got.success, got.revision, success, revision)
	}
}

// set is client.SetKeyValue.
func (e *env) set(key, value string, w write) entry {
	e.Helper()
	got, err := e.c.setAt(e.Context(), e.c.url(), tx{}, key, []byte(value), e.d, w)
	e.ok(err)
	return got
}

// get is client.GetKeyValue.
func (e *env) get(key string) entry {
	e.Helper()
	got, err := e.c.getAt(e.Context(), e.c.url(), tx{}, key, -1, e.d)
	e.ok(err)
	return got
}

// reads checks what everybody sees under a key.
func (e *env) reads(key, value string, revision int64) {
	e.Helper()
	got := e.get(key)
	e.is("get", got, true, revision)
	if string(got.value) != value {
		e.Fatalf("the value is %q, and %q is expected", got.value, value)
	}
}

// shows is reads at whatever revision.
func (e *env) shows(key, value string) {
	e.Helper()
	if got := e.get(key); !got.success || string(got.value) != value {
		e.Fatalf("%s shows %q (%v), and %q is expected", key, got.value, got.success, value)
	}
}

// gone checks that there is nothing, at revision 0 whatever was there before.
func (e *env) gone(key string) {
	e.Helper()
	got := e.get(key)
	e.is("get", got, false, 0)
	if got.value != nil {
		e.Fatalf("nothing has the value %q", got.value)
	}
}

// expires waits until a key is gone. Where its lease cannot have ended yet, it must
// still be there first: a lease never ends early.
func (e *env) expires(key, value string, revision int64, from time.Time, ms int32) {
	e.Helper()
	if got := e.get(key); time.Since(from) < time.Duration(ms)*time.Millisecond {
		e.is("get before the end", got, true, revision)
		if string(got.value) != value {
			e.Fatalf("the value is %q, and %q is expected", got.value, value)
		}
	}
	wait(e.T, "the key expires", func() bool { return !e.get(key).success })
	e.gone(key)
}

// begin is client.StartTransactionSession; what is left of it is rolled back.
func (e *env) begin(o sessionOptions) *session {
	e.Helper()
	s, err := e.c.begin(e.Context(), o)
	e.ok(err)
	e.Cleanup(func() {
		if err := s.dispose(context.WithoutCancel(e.Context())); err != nil {
			e.Errorf("disposing of a session: %v", err)
		}
	})
	return s
}
