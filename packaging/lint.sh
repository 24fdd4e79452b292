#!/usr/bin/env bash
# packaging/lint.sh: lintian and rpmlint on what is in dist/, clean but for what
# deb/lintian-overrides and rpm/rpmlint.toml explain; and the rpm installed into an
# empty root, verified, and erased again, where rpm is installed and this is root.
# The arm64 binary keeps a key and a lock over a restart where qemu-user-static is
# installed; `make machine` does much more with it.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
debs=(dist/*.deb) rpms=(dist/*.rpm)
[ ${#debs[@]} -gt 0 ] && [ ${#rpms[@]} -gt 0 ] || { echo 'there is nothing in dist/: run make packages'; exit 1; }

temporary=()
trap 'rm -rf "${temporary[@]}"' EXIT
have() { command -v "$1" >/dev/null || { echo "SKIPPED: $1 is not installed (apt-get install $1)"; return 1; }; }

if have lintian; then
	lintian --fail-on error,warning --allow-root "${debs[@]}"
	echo "lintian: clean"
fi
if have rpmlint; then
	# rpmlint unpacks with `cpio -id`, and nfpm's rpms have absolute names: without
	# this they would land on this host.
	wrapper=$(mktemp -d)
	temporary+=("$wrapper")
	printf '#!/bin/sh\nexec %s --no-absolute-filenames "$@"\n' "$(command -v cpio)" >"$wrapper/cpio"
	chmod +x "$wrapper/cpio"
	said=$(PATH=$wrapper:$PATH rpmlint -c packaging/rpm/rpmlint.toml "${rpms[@]}" 2>&1) || { echo "$said"; exit 1; }
	if grep -E '^kahu\.[a-z0-9_]+: [EW]: ' <<<"$said"; then exit 1; fi
	echo "rpmlint: clean"
fi
if have rpm && [ "$(id -u)" = 0 ]; then
	root=$(mktemp -d)
	temporary+=("$root")
	rpm --root "$root" --initdb
	# Without its scriptlets: there is no shell in an empty root.
	rpm --root "$root" --install --noscripts --nodeps --ignorearch --ignoreos dist/*.x86_64.rpm
	rpm --root "$root" --verify --nodeps --noscripts kahu
	"$root/usr/bin/kahu" version >/dev/null
	echo >>"$root/etc/kahu/kahu.yaml" # changed by its operator, so that it is kept
	rpm --root "$root" --erase --noscripts --nodeps kahu
	left=$(find "$root" -not -type d -not -path "$root/var/lib/rpm/*" -not -path "$root/usr/lib/sysimage/rpm/*" -not -path "$root/root/.rpmdb/*")
	[ "$left" = "$root/etc/kahu/kahu.yaml.rpmsave" ] || { echo "erasing the rpm leaves: $left"; exit 1; }
	echo "rpm: installed, verified and erased in an empty root"
fi
# kahu exec is not tried: qemu's user mode knows no subreapers.
arm64=(dist/*_arm64.deb)
if [ ${#arm64[@]} -gt 0 ] && [ "$(uname -m)" != aarch64 ] && have qemu-aarch64-static; then
	dir=$(mktemp -d)
	temporary+=("$dir")
	dpkg-deb -x "${arm64[0]}" "$dir/package"
	kahu() { qemu-aarch64-static "$dir/package/usr/bin/kahu" "$@"; }
	export KAHU_SOCKET=$dir/kahu.sock
	kahu version | grep -q 'linux/arm64'
	engines=(sqlite)
	if grep -q rocksdb_open "$dir/package/usr/bin/kahu"; then
		engines+=(rocksdb)
	else
		echo 'SKIPPED: rocksdb on arm64 is not in this package (make arm64-libraries packages)'
	fi
	port=7450
	while (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	agent() { # agent ENGINE
		qemu-aarch64-static "$dir/package/usr/bin/kahu" agent --data-dir "$dir/$1" --storage "$1" --allow-volatile --bind "127.0.0.1:$port" --gossip off 2>>"$dir/log" &
		agent=$!
		for _ in {1..150}; do
			if kahu status --ready >/dev/null 2>&1; then return; fi
			sleep 0.2
		done
		echo "the arm64 agent on $1 does not become ready:"
		cat "$dir/log"
		exit 1
	}
	for engine in "${engines[@]}"; do
		agent "$engine"
		kahu kv set greeting aloha >/dev/null
		kahu lock try backup --owner me --ttl 1h >/dev/null
		kill "$agent" && wait "$agent"
		agent "$engine"
		[ "$(kahu kv get greeting)" = aloha ]
		kahu lock unlock backup --owner me >/dev/null
		kill "$agent" && wait "$agent"
	done
	echo "arm64: a key and a lock over a restart, on ${engines[*]}"
fi
