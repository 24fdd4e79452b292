#!/usr/bin/env bash
# packaging/foreign.sh ARCH DIR PACKAGE...: unpacks Debian packages of another
# architecture into DIR, less their documentation and a kernel's modules: the static
# libraries that a cross build links, or the kernel that a test boots. The host's own
# packages and its list of architectures stay as they are; apt checks the signatures.
set -euo pipefail

arch=$1 dir=$2
shift 2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt downloads as a user of its own
mkdir -p "$work"/{lists,cache/archives,debs,root}
! getent passwd _apt >/dev/null || chown -R _apt "$work"/{lists,cache,debs}
: >"$work/status"
cat >"$work/apt.conf" <<EOF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
Dir::State::Lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
EOF
export APT_CONFIG=$work/apt.conf
apt-get -qq update
packages=()
for package in "$@"; do
	case $package in # the newest of a kind is a package that only depends on it
	linux-image-*) package=$(apt-cache depends "$package" | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1) ;;
	esac
	packages+=("$package")
done
(cd "$work/debs" && apt-get -qq download "${packages[@]}")
for deb in "$work"/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --exclude=./lib/modules --exclude=./usr/share
done
mkdir -p "$(dirname "$dir")"
rm -rf "$dir"
mv "$work/root" "$dir"
chmod 755 "$dir"
echo "$dir has ${packages[*]} for $arch"
