#!/usr/bin/env bash
# Checks that the generated protobuf code is what protoc makes of the .proto
# files now; with --write, makes it so. Without protoc the check is skipped,
# and says so. The version comments in the generated files are not compared:
# another protoc that writes the same code is fine.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v protoc >/dev/null; then
	echo "SKIPPED: generated code not checked, protoc is not installed (apt-get install protobuf-compiler)"
	[ "${1-}" != --write ]
	exit
fi

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go
GOBIN=$tools go install google.golang.org/grpc/cmd/protoc-gen-go-grpc
GOBIN=$tools go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto

generate() { # generate OUTDIR, as the go:generate lines beside the files say
	local proto features services
	for proto in $(git ls-files '*.proto'); do
		features=marshal+unmarshal+size
		# The contract's messages are decoded in place, without copying values.
		# So is the Kahuna wire, which has services as well.
		services=()
		case "$proto" in
		replication/replication.proto) features+=+unmarshal_unsafe ;;
		localapi/kahuna/kahunapb/*)
			features+=+unmarshal_unsafe
			services=(--go-grpc_out="$1" --go-grpc_opt=paths=source_relative,require_unimplemented_servers=false)
			;;
		esac
		PATH="$tools:$PATH" protoc \
			--go_out="$1" --go_opt=paths=source_relative "${services[@]}" \
			--go-vtproto_out="$1" --go-vtproto_opt=paths=source_relative,features=$features "$proto"
	done
}

if [ "${1-}" = --write ]; then
	generate .
	exit
fi

mkdir "$tools/out"
generate "$tools/out"
stale=0
while IFS= read -r file; do
	if ! diff -q <(grep -v '^//[[:space:]]*protoc' "$file") <(grep -v '^//[[:space:]]*protoc' "$tools/out/$file") >/dev/null; then
		echo "stale: $file (run make generate)"
		stale=1
	fi
done < <(cd "$tools/out" && find . -name '*.go' | sed 's|^\./||')
exit $stale
