#!/usr/bin/env bash
# packaging/lint.sh: lintian and rpmlint on what is in dist/, clean but for what
# deb/lintian-overrides and rpm/rpmlint.toml explain; and the rpm installed into an
# empty root, verified, and erased again, where rpm is installed and this is root.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
debs=(dist/*.deb) rpms=(dist/*.rpm)
[ ${#debs[@]} -gt 0 ] && [ ${#rpms[@]} -gt 0 ] || { echo 'there is nothing in dist/: run make packages'; exit 1; }

have() { command -v "$1" >/dev/null || { echo "SKIPPED: $1 is not installed (apt-get install $1)"; return 1; }; }

if have lintian; then
	lintian --fail-on error,warning --allow-root "${debs[@]}"
	echo "lintian: clean"
fi
if have rpmlint; then
	# rpmlint unpacks with `cpio -id`, and nfpm's rpms have absolute names: without
	# this they would land on this host.
	wrapper=$(mktemp -d)
	trap 'rm -rf "$wrapper"' EXIT
	printf '#!/bin/sh\nexec %s --no-absolute-filenames "$@"\n' "$(command -v cpio)" >"$wrapper/cpio"
	chmod +x "$wrapper/cpio"
	said=$(PATH=$wrapper:$PATH rpmlint -c packaging/rpm/rpmlint.toml "${rpms[@]}" 2>&1) || { echo "$said"; exit 1; }
	if grep -E '^kahu\.[a-z0-9_]+: [EW]: ' <<<"$said"; then exit 1; fi
	echo "rpmlint: clean"
fi
if have rpm && [ "$(id -u)" = 0 ]; then
	root=$(mktemp -d)
	trap 'rm -rf "$root" ${wrapper:+"$wrapper"}' EXIT
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
