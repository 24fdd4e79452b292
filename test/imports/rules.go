package imports

// module is the prefix of our own packages.
const module = "github.com/kahu-sh/kahu/"

// A row says what a package may import of our own packages. The row with the
// longest matching Package wins; "x/..." matches x and everything below it.
type row struct {
	Package string
	May     []string
	Why     string
}

// rows is the map of the house.
var rows = []row{
	{"storage", nil,
		"the engine interface is the ground floor: whatever it imported, every engine would drag in"},
	{"storage/atomicfile", nil,
		"a file that is there whole or not at all is needed in every room, and by commands that have no engine"},
	{"storage/...", []string{"storage/..."},
		"engines store bytes and know nothing of Raft, locks or agents, so that one conformance suite covers them all"},

	{"replication", nil,
		"it holds the contract only, so that every room can name it without a cycle"},
	{"replication/stream", []string{"replication"},
		"the multiplexed stream carries bytes; both the local socket and the agents' link are built on it"},
	{"replication/pace", nil,
		"when to wake is a function of the clock; every loop may ask it"},
	{"replication/limiter", nil,
		"rate limits are texts of scripts and the reading of their answers; both ends and the tests of each way to run scripts use them"},
	{"replication/script/scripttest", []string{"replication", "replication/script"},
		"the cases of the language run over a plain store; whoever runs scripts in another way runs them too"},
	{"replication/scriptrun", []string{"replication", "replication/script"},
		"how a script is run is decided over any Coordinator; what it means is not decided here"},
	{"replication/raftlog", nil,
		"it decorates Raft's log store and checks it; it knows nothing of what the entries mean"},
	{"replication/script", []string{"replication"},
		"the evaluator is pure: what it reads and writes is handed to it"},
	{"replication/statemachine", []string{"replication", "replication/script", "storage"},
		"the only place that decides must be a function of the log: no node, network or engine in it"},
	{"replication/proposer", []string{"replication", "replication/statemachine"},
		"it makes entries of requests; who leads and who is connected is told to it"},
	{"replication/reads", []string{"replication"},
		"the read barrier asks for terms through a function; it must not know how voters are reached"},
	{"replication/link", []string{"replication", "replication/stream"},
		"agents talk to agents here; a link that knew the voter would be a cycle"},
	{"replication/forward", []string{"replication", "replication/link"},
		"guess the leader, follow its hint, re-send the same id: one place, for voters and proxies alike"},
	{"replication/upstream", []string{"replication", "replication/script", "replication/limiter", "localapi/kahuna/kahunapb"},
		"it is a client of Kahuna's wire, whose generated messages, a leaf, stand beside their server"},
	{"replication/membership", []string{"replication", "replication/link", "storage/atomicfile"},
		"who may join is decided over the link, before there is a voter to ask"},
	{"replication/...", []string{"replication/...", "storage/..."},
		"replication stands on storage and on nothing above it: no local API, no agent, no host integration"},

	{"localapi/holdwire", nil,
		"kahu exec pays for its start: what a hold says must not bring the contract and protobuf with it"},
	{"localapi/wire", []string{"localapi/holdwire", "replication"},
		"both ends share it, so it must not pull the server into every client"},
	{"localapi/client/internal/socket", []string{"localapi/holdwire", "replication/stream"},
		"kahu exec pays for its start, and this is the way to the agent"},
	{"localapi/client/hold", []string{"localapi/client/internal/socket", "localapi/holdwire", "replication/stream"},
		"kahu exec pays for its start, and this is all that it asks of the agent"},
	{"localapi/client", []string{"localapi/client/...", "localapi/wire", "replication", "replication/stream"},
		"applications link the client: the server, Raft and the engines must not come with it"},
	{"localapi/diagnosis", []string{"localapi/wire"},
		"a verdict depends on what an agent tells and on nothing else"},
	{"localapi/caller", nil,
		"who is at the other end of a socket is between us and the kernel"},
	{"localapi/policy", []string{"localapi/caller"},
		"a decision about a caller and a name needs nothing else"},
	{"localapi/token", []string{"localapi/policy", "storage/atomicfile"},
		"the command that makes tokens uses it without a server"},
	{"localapi/grpchttp", nil,
		"it is about gRPC, and any service could use it"},
	{"localapi/doors", []string{"localapi/caller", "localapi/token", "storage/atomicfile"},
		"who knocks is found out here; what is behind a door is a handler"},
	{"localapi/kahuna/kahunapb", nil,
		"messages of Kahuna's wire, generated: any client or test may link them"},
	{"localapi/kahuna", []string{"localapi/caller", "localapi/policy", "localapi/kahuna/...", "replication", "replication/scriptrun"},
		"Kahuna's wire is translated to replication.Coordinator; the socket's own API stands beside it, not below"},
	{"localapi/...", []string{"localapi/...", "replication", "replication/limiter", "replication/stream"},
		"handlers speak to replication.Coordinator and localapi.Holder; which voter or hold is behind them is not their business"},

	{"discovery/...", []string{"discovery/...", "storage/atomicfile"},
		"finding peers is never part of a lease; it hands out names and addresses"},

	{"integrations/...", []string{"integrations/..."},
		"what touches the host declares the interface it needs, and cmd/kahu or agent hand it in"},

	{"agent/config", []string{"agent/config", "discovery/cloud", "localapi/caller", "localapi/policy"},
		"configuration is text checked into types; it must be loadable without starting anything"},
	{"agent/secret", []string{"storage/atomicfile"},
		"keys are derived from bytes, for whoever asks"},
	{"agent/holds", []string{"replication", "localapi", "localapi/caller", "localapi/wire"},
		"holds are kept through a Coordinator and shown through localapi.Holder; clocks and pidfds are handed in"},
	{"agent/...", []string{"agent/...", "localapi/...", "replication/...", "storage/...", "discovery/...", "integrations/..."},
		"the composition root builds everything below it, and nothing imports it but cmd/kahu"},

	{"cmd/kahu/load", nil,
		"the load generator measures functions; that etcd is measured with the same one is what makes the ratio fair"},
	{"cmd/kahu/top", []string{"localapi/client", "localapi/diagnosis", "localapi/wire"},
		"the live view shows what the local socket tells; a screen is a function of it"},
	{"cmd/kahu/guarded", []string{"integrations/guard", "integrations/guard/stage", "localapi/client/hold", "localapi/holdwire"},
		"kahu exec runs before the rest of the program is initialised, and the rest must not come with it"},
	{"cmd/kahu", []string{"agent", "agent/config", "agent/secret", "cmd/kahu/guarded", "cmd/kahu/load", "cmd/kahu/top", "localapi/client", "localapi/client/hold", "localapi/diagnosis", "localapi/kahuna/kahunapb", "localapi/token", "localapi/wire", "replication", "replication/script", "storage/atomicfile", "integrations/..."},
		"main turns flags into a call and an error into an exit code: what it does itself cannot be reused or tested"},

	{"packaging/...", nil,
		"it carries files"},
	{"test/...", []string{"..."},
		"tests may cross every room"},
}

// A ban says what a package may not import, ours or not.
type ban struct {
	Package string   // as in row
	Not     []string // import paths; "x/..." as in row
	Why     string
}

const deterministic = "entries are applied on every voter, so apply must depend on the log alone: a clock, a random number, " +
	"the host or a race would fork the voters (DESIGN.md §3, STYLE.md §4)"

// Go initialises what is ready in the order of import paths; what the three stages of
// kahu exec wait for is paid three times for each command.
const (
	startsLate     = "package stage runs before a third of the program is initialised, and this would have it wait for that (see its package comment)"
	keeperIsInLate = "the keeper of kahu exec would wait until protobuf and gRPC are initialised (see package guarded)"
)

var bans = []ban{
	{"integrations/guard/stage", []string{"strings", "bufio", "io/ioutil", "path", "path/filepath", "log/...", "net/...", "encoding/json", "golang.org/x/..."}, startsLate},
	{"integrations/boottime", []string{"strings", "bufio", "io/ioutil", "path", "path/filepath", "log/...", "net/...", "encoding/json", "golang.org/x/..."}, startsLate},
	{"integrations/cgroup", []string{"strings", "bufio", "io/ioutil", "path/filepath", "log/...", "net/...", "encoding/json", "golang.org/x/..."}, startsLate},
	{"integrations/guard", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"cmd/kahu/guarded", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"localapi/holdwire", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"localapi/client/hold", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"localapi/client/internal/socket", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"replication/stream", []string{"os/exec", "path/filepath", "log/...", "net/..."}, keeperIsInLate},
	{"replication/statemachine", []string{"time", "math/rand/...", "crypto/rand", "os/...", "net/...", "sync/...", "log/...", "unsafe", "context"}, deterministic},
	{"replication/script", []string{"time", "math/rand/...", "crypto/rand", "os/...", "net/...", "sync/...", "log/...", "unsafe", "context"}, deterministic},
	{"localapi/client", []string{"github.com/hashicorp/...", "modernc.org/...", "github.com/linxGnu/...", "google.golang.org/grpc/..."},
		"applications link the client: it stays small"},
}

// forbiddenNames are package names that say nothing.
var forbiddenNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "manager", "types"}

// topLevel is what may stand at the top of the repository, besides files and
// hidden folders. bin and dist are made by the Makefile and ignored by git.
var topLevel = []string{"agent", "bin", "cmd", "discovery", "dist", "integrations", "localapi", "packaging", "replication", "storage", "test"}

// MaxFileLines is where a file has certainly become about more than one thing.
const MaxFileLines = 600
