#!/bin/bash
# A client in Node, written in the manner of kahuna-ts, against kahu: REST over
# HTTP/1.1 and HTTP/2, gRPC unary and on batch streams, under TLS and in clear text,
# on every agent, proxy included. For machines where no checkout of kahuna-ts is at
# hand. See kahuna-ts.sh for the client's own suite.
#
# Needs Go, bash, Node 20 or newer, npm, and the npm registry for @grpc/grpc-js and
# @grpc/proto-loader (NODE_PATH_DIR names a folder that has them in node_modules).
set -u -o pipefail
. "$(dirname "$0")/agents.sh"
command -v node >/dev/null && command -v npm >/dev/null || die "Node (20 or newer) and npm are needed"
start_agents
modules=${NODE_PATH_DIR:-$AGENTS/node}
if [[ ! -d $modules/node_modules/@grpc ]]; then
  mkdir -p "$modules"
  (cd "$modules" && npm install --silent --no-audit --no-fund --ignore-scripts @grpc/grpc-js@1.14.4 @grpc/proto-loader@0.8.1) ||
    die "npm cannot get @grpc/grpc-js and @grpc/proto-loader"
fi
cp "$here/smoke.mjs" "$modules/smoke.mjs" # so that imports are found
(cd "$modules" && node smoke.mjs "$repo" "$(endpoints https 0 1 2 3),$(endpoints http 0 1 2 3)") || die "the smoke run failed"
say "all passed"
