#!/usr/bin/env bash
# packaging/build.sh [amd64|arm64]...: debs and rpms into dist/, from the commit
# that is checked out. Two runs of one commit give identical files: no clock but
# the commit's, no path, no order of a directory.
#
# Each is one static binary with all three engines, where RocksDB 7 and the static
# libraries it needs are there for its architecture: installed (librocksdb-dev and
# what the README names), or, to build for arm64 elsewhere, in the cache by `make
# arm64-libraries`, beside g++-aarch64-linux-gnu. Without them it carries the other
# two, and the build says so.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export TZ=UTC LC_ALL=C
umask 022
described=$(git describe --tags --match 'v[0-9]*' 2>/dev/null || echo "v0.0.0-$(git rev-list --count HEAD)-g$(git rev-parse --short=12 HEAD)")
version=${PKG_VERSION:-$(sed -E 's/^v//; s/-([0-9]+)-g([0-9a-f]+)$/+git\1.\2/' <<<"$described")}
dist=$PWD/dist
tool() { "$GO" tool -modfile=packaging/tools/go.mod "$@"; }

static_rocksdb='-lrocksdb -lstdc++ -lm -lz -lsnappy -llz4 -lzstd -lbz2 -ldl'

arm64_libraries=${XDG_CACHE_HOME:-$HOME/.cache}/kahu-tools/arm64-libraries
host=$("$GO" env GOHOSTARCH)
declare -A triplet=([amd64]=x86_64-linux-gnu [arm64]=aarch64-linux-gnu)

# libraries ARCH prints where its static libraries are, or why there are none.
libraries() {
	if [ "$1" = "$host" ]; then
		[ -e "/usr/lib/${triplet[$1]}/librocksdb.a" ] || { echo 'librocksdb-dev is not installed'; return 1; }
		echo /usr
	elif [ "$1" = arm64 ]; then
		[ -e "$arm64_libraries/usr/lib/${triplet[$1]}/librocksdb.a" ] || { echo 'run make arm64-libraries first'; return 1; }
		command -v aarch64-linux-gnu-g++ >/dev/null || { echo 'g++-aarch64-linux-gnu is not installed'; return 1; }
		echo "$arm64_libraries/usr"
	else
		echo "it cannot be built on $host"
		return 1
	fi
}

binary() { # binary ARCH OUT
	# No build id of Go's: it would tell where the libraries are.
	local common=(-trimpath -buildvcs=false) ldflags="-s -w -buildid= -X main.version=$version" at compiler=()
	if ! at=$(libraries "$1"); then
		echo "$1: without the engine rocksdb: $at"
		CGO_ENABLED=0 GOARCH=$1 "$GO" build "${common[@]}" -ldflags "$ldflags" -o "$2" ./cmd/kahu
		return
	fi
	local flags="-static $static_rocksdb"
	if [ "$at" != /usr ]; then
		compiler=("CC=${triplet[$1]}-gcc" "CXX=${triplet[$1]}-g++" "CGO_CFLAGS=-O2 -I$at/include" "CGO_CXXFLAGS=-O2 -I$at/include")
		flags="-L$at/lib/${triplet[$1]} $flags"
	fi
	env CGO_ENABLED=1 GOARCH="$1" "${compiler[@]}" CGO_LDFLAGS="$flags" "$GO" build "${common[@]}" \
		-tags rocksdb,netgo,osusergo -ldflags "$ldflags -linkmode external -extldflags -static" -o "$2" ./cmd/kahu
}

# What is the same on every architecture is made by a binary of this machine.
documents() { # documents ROOT KAHU
	local doc=$1/usr/share/doc/kahu man=$1/usr/share/man/man1
	mkdir -p "$doc" "$man" "$1"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
	"$2" man "$man"
	gzip -9n "$man"/*.1
	"$2" completion bash >"$1/usr/share/bash-completion/completions/kahu"
	"$2" completion zsh >"$1/usr/share/zsh/vendor-completions/_kahu"
	"$2" completion fish >"$1/usr/share/fish/vendor_completions.d/kahu.fish"
	"$2" agent --print-config >"$doc/kahu.yaml.example"
	gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
	printf 'kahu (%s) stable; urgency=medium\n\n  * Built from commit %.12s; see changelog.gz.\n\n -- The kahu authors <packages@kahu.sh>  %s\n' \
		"$version-1" "$(git rev-parse HEAD)" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.Debian.gz"
}

rm -rf dist
mkdir -p dist
for arch in "${@:-amd64}"; do
	root=$dist/root/$arch
	mkdir -p "$root/usr/bin"
	binary "$arch" "$root/usr/bin/kahu"
	native=$root/usr/bin/kahu
	if [ "$arch" != "$host" ]; then
		native=$dist/root/native
		[ -e "$native" ] || CGO_ENABLED=0 "$GO" build -trimpath -buildvcs=false -ldflags "-X main.version=$version" -o "$native" ./cmd/kahu
	fi
	documents "$root" "$native"
	"$GO" run ./packaging/licences "$root/usr/bin/kahu" | gzip -9n >"$root/usr/share/doc/kahu/licences.gz"
	tool cyclonedx-gomod bin -json -noserial -notimestamp -std -version "v$version" -output "dist/kahu_${version}_$arch.cdx.json" "$root/usr/bin/kahu" 2>/dev/null
	find "$root" -exec touch --no-dereference -d "@$SOURCE_DATE_EPOCH" {} +
	for packager in deb rpm; do
		PKG_ARCH=$arch PKG_VERSION=$version PKG_ROOT=$root \
			tool nfpm package --config nfpm.yaml --packager "$packager" --target dist/
	done
done
rm -rf dist/root
(cd dist && sha256sum -- *.deb *.rpm *.json >SHA256SUMS && cat SHA256SUMS)
