#!/usr/bin/env bash
# Prints what one operation of each load costs in CPU time and bytes written, by
# process of a cluster of three voters. With --profile as the first argument also
# by part of the code. Other arguments go to test/bench/cpu (see --help).
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
build=(go build -o "$dir/kahu")
if [ "${1:-}" = --profile ]; then
	shift
	# The shipped binary has no profiler; this one gets a file more.
	cat >"$dir/profiler.go" <<-'GO'
		package main

		import (
			"fmt"
			"net"
			"net/http"
			_ "net/http/pprof"
			"os"
			"path/filepath"
		)

		func init() {
			dir := os.Getenv("PROFILER_DIR")
			if dir == "" || len(os.Args) < 2 || os.Args[1] != "agent" {
				return
			}
			l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprintf("%d.sock", os.Getpid())))
			if err != nil {
				panic(err)
			}
			go http.Serve(l, nil)
		}
	GO
	printf '{"Replace": {"%s": "%s"}}' "$PWD/cmd/kahu/profiler.go" "$dir/profiler.go" >"$dir/overlay.json"
	build+=(-overlay "$dir/overlay.json")
	set -- --profiles "$dir" "$@"
fi
"${build[@]}" ./cmd/kahu
go build -o "$dir/cpu" ./test/bench/cpu
"$dir/cpu" --binary "$dir/kahu" "$@"
