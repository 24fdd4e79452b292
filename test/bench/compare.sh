#!/usr/bin/env bash
# Measures kahu beside etcd: three local voters, then three local etcd 3.6
# members, the same loads from the same generator, one after the other, and
# prints both with ratios. Arguments go to test/bench/compare (see --help).
#
# etcd is built from the module in test/bench/etcd, once, into the user's cache.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kahu-tools/etcd
mkdir -p "$cache"
echo "building etcd and its load client (under a minute when nothing is cached)" >&2
# A copy of go.mod: kahu's own requirements move, and this must not dirty the tree.
modfile=$(mktemp -d)
trap 'rm -rf "$modfile"' EXIT
cp test/bench/etcd/go.mod test/bench/etcd/go.sum "$modfile/"
(cd test/bench/etcd && go build -modfile="$modfile/go.mod" -mod=mod -o "$cache/" ./member ./load)

go run ./test/bench/compare --etcd "$cache" "$@"
