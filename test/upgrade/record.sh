#!/usr/bin/env bash
# Writes a data directory with a build of kahu, for testdata/NAME-ENGINE.tar.gz:
# later builds must open it and find everything (upgrade_test.go has what).
#
#   ./record.sh BINARY LEVEL ENGINE
#
# Do it once for each feature level, with the last build that writes under it (a
# later one does with KAHU_FEATURE_LEVEL_CAP=LEVEL). They are never written again.
# level1 is of a capped build, level2 of commit 3520601, level3 of commit 46cfa63, with
# a recovery in between; first-sqlite.tar.gz is of commit dd65a52, from before formats
# were kept.
set -euo pipefail
binary=$1 level=$2 name=level$2 engine=$3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
agent=
trap '[ -z "$agent" ] || kill -9 "$agent" 2>/dev/null; rm -rf "$work"' EXIT
export KAHU_SOCKET=$work/kahu.sock
kahu() { "$binary" "$@"; }

start() {
	"$binary" agent --node-name earlier --data-dir "$work/data" --storage "$engine" --bind 127.0.0.1:17350 --role voter --bootstrap-expect 1 2>>"$work/log" &
	agent=$!
	for _ in $(seq 100); do kahu status --ready >"$work/ready" 2>&1 && return; sleep 0.1; done
	cat "$work/log" >&2
	exit 1
}

# write PART: what each feature level has. A part is flushed to the engine, the
# other one is only in the log when the agent is killed.
write() {
	local part=$1 i
	for i in 0 1 2; do kahu kv set "$part/revised" "value $i"; done
	kahu kv set "$part/gone" x && kahu kv del "$part/gone"
	kahu kv set "$part/expires" "in a day" --ttl 24h
	kahu kv set "$part/short" "is over" --ttl 1s
	kahu kv set "$part/ephemeral" e --ephemeral
	head -c 20000 /dev/zero | tr '\0' "$part" | kahu kv set "$part/large"
	for i in $(seq 100 149); do kahu kv set "$part/many/$i" "$i"; done
	kahu lock try "$part/held" --ttl 24h --owner someone --reason "of an earlier build"
	for i in 0 1 2; do
		kahu lock try "$part/free" --ttl 1h --owner "o$i"
		kahu lock unlock "$part/free" --owner "o$i"
	done
	kahu lock try "$part/ephemeral" --ttl 24h --owner e --ephemeral
	kahu seq create "$part/numbers" && kahu seq next "$part/numbers" && kahu seq reserve "$part/numbers" 10
	kahu seq next "$part/numbers" --idempotency-key once
	if [ "$level" -ge 2 ]; then
		printf 'SET `%s/scripted` "by a script"' "$part" >"$work/script"
		kahu script run "$work/script"
		kahu snapshot hold "$part-holder" --lease 24h
		kahu keyspace register "$part-space"
		kahu limit take "$part/limit" --rate 2/24h && kahu limit take "$part/limit" --rate 2/24h
	fi
}

start
write a
kill "$agent" && wait "$agent" || true
if [ "$level" -ge 3 ]; then
	kahu cluster peers-recover --yes --token-floor 2000000 --data-dir "$work/data" --storage "$engine" --bind 127.0.0.1:17350
fi
start
write b
kahu exec --lock b/guarded --ttl 60s -- sleep 300 & guard=$!
until kahu lock info b/guarded >"$work/info" 2>&1; do sleep 0.1; done
kill -9 "$agent" && wait "$agent" 2>/dev/null || true
kill -9 "$guard" 2>/dev/null || true
rm -f "$work/data/kahu.sock"
tar -C "$work" -cSf - --owner=0 --group=0 --numeric-owner data | gzip -9n >"$here/testdata/$name-$engine.tar.gz"
ls -l "$here/testdata/$name-$engine.tar.gz"
