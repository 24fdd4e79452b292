# Sourced by the scripts beside it: builds kahu, starts three voters and a proxy on
# loopback whose Kahuna listeners trust everybody, and stops them at exit.
#
#   PORTS    the listeners of the voters and the proxy (default 8082 8084 8086 8088,
#            where the suites of Kahuna's clients look)
#   RAFT_PORT  the first of four ports between the agents (default 17351)
#   KAHU     a binary to run instead of building one
#   KEEP=1   leaves the agents' folder, with their logs, behind
#
# After start_agents: $KAHU is the binary, $AGENTS the folder, and each listener
# takes https (with a certificate that its agent made) and http.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
read -r -a PORTS <<<"${PORTS:-8082 8084 8086 8088}"
pids=()

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

stop_agents() {
  local status=$?
  trap - EXIT
  ((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null
  wait
  if [[ -n ${KEEP:-} ]]; then
    say "the agents' folder is $AGENTS"
  else
    rm -rf "${AGENTS:?}"
  fi
  exit "$status"
}

start_agents() {
  AGENTS=$(mktemp -d)
  trap stop_agents EXIT
  trap 'exit 130' INT TERM
  if [[ -z ${KAHU:-} ]]; then
    say "building kahu"
    KAHU=$AGENTS/kahu
    (cd "$repo" && go build -o "$KAHU" ./cmd/kahu) || die "kahu does not build"
  fi
  "$KAHU" keygen "$AGENTS/secret" >/dev/null
  local base=${RAFT_PORT:-17351} i role
  local voters=127.0.0.1:$base,127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2))
  for i in 0 1 2 3; do
    role=(--role voter --bootstrap-expect 3)
    ((i == 3)) && role=(--role proxy)
    "$KAHU" agent --node-name "wire$i" --data-dir "$AGENTS/$i" --socket "$AGENTS/$i.sock" \
      --bind "127.0.0.1:$((base + i))" --secret-file "$AGENTS/secret" --join "$voters" "${role[@]}" \
      --kahuna-listen "127.0.0.1:${PORTS[i]}" --kahuna-insecure --kahuna-advertise "${SCHEME:-https}://127.0.0.1:${PORTS[i]}" \
      >"$AGENTS/$i.log" 2>&1 &
    pids+=($!)
  done
  for i in 0 1 2 3; do
    for ((tries = 0; ; tries++)); do
      "$KAHU" status --ready --socket "$AGENTS/$i.sock" --timeout 1s >/dev/null 2>&1 && break
      kill -0 "${pids[i]}" 2>/dev/null || die "agent $i did not start: $(tail -n 3 "$AGENTS/$i.log")"
      ((tries < 120)) || die "agent $i is not ready after a minute: $(tail -n 3 "$AGENTS/$i.log")"
      sleep 0.5
    done
  done
  say "three voters on ${PORTS[*]:0:3}, a proxy on ${PORTS[3]}"
}

# endpoints SCHEME I...: the URLs of those agents, with commas between.
endpoints() {
  local scheme=$1 all=() i
  shift
  for i; do all+=("$scheme://localhost:${PORTS[i]}"); done
  (IFS=, && printf '%s' "${all[*]}")
}
