#!/bin/bash
# Runs the test suite of kahuna-ts, Kahuna's TypeScript client, against kahu:
#
#   KAHUNA_TS_DIR=~/kahuna-ts test/wire/kahuna-ts.sh [VITEST ARGUMENT]...
#
# KAHUNA_TS_DIR is a checkout of github.com/kahunakv/kahuna-ts; its dependencies are
# installed when they are missing. The suite itself goes through gRPC and REST, one
# endpoint and the pool, both durabilities. It runs three times: a pool of three
# voters under TLS; the proxy alone under TLS; the pool in clear text. Arguments go
# to vitest, for example a file. Exit code 0: all of them passed.
#
# Needs Go, bash, npm and the Node that its vitest and undici ask for (22.19 or newer).
# KEEP=1 leaves the agents' logs.
set -u -o pipefail
. "$(dirname "$0")/agents.sh"

[[ -n ${KAHUNA_TS_DIR:-} && -f $KAHUNA_TS_DIR/package.json ]] ||
  die "KAHUNA_TS_DIR must name a checkout of github.com/kahunakv/kahuna-ts: git clone https://github.com/kahunakv/kahuna-ts"
command -v node >/dev/null && command -v npm >/dev/null || die "Node (22.19 or newer) and npm are needed"
if [[ ! -x $KAHUNA_TS_DIR/node_modules/.bin/vitest ]]; then
  say "installing what kahuna-ts needs"
  (cd "$KAHUNA_TS_DIR" && npm ci) || die "npm ci failed in $KAHUNA_TS_DIR"
fi

start_agents
failed=()

# suite NAME ENDPOINTS [VITEST ARGUMENT]...
suite() {
  local name=$1 where=$2
  shift 2
  say "$name: $where"
  # The certificates were made by the agents, and the suite says that it takes any.
  (cd "$KAHUNA_TS_DIR" && KAHUNA_TEST_ENDPOINTS=$where node_modules/.bin/vitest run "$@") || failed+=("$name")
}

suite "pool of three, TLS" "$(endpoints https 0 1 2)" "$@"
# What its routing tests expect of hints is for ports 8082, 8084 and 8086 under TLS.
suite "proxy alone, TLS" "$(endpoints https 3)" --exclude 'test/routing.test.ts' "$@"
suite "pool of three, clear text" "$(endpoints http 0 1 2)" --exclude 'test/routing.test.ts' "$@"

((${#failed[@]} == 0)) || die "failed: $(IFS=';' && printf '%s' "${failed[*]}")"
say "all passed"
