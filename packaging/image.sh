#!/usr/bin/env bash
# packaging/image.sh ARCHIVE [amd64|arm64]: the container image as an OCI archive:
# one static program on nothing. No daemon is needed, and nothing is pulled.
set -euo pipefail
archive=$(realpath -m "$1") arch=${2:-amd64}
cd "$(dirname "$0")/.."

GO=${GO:-go}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=${PKG_VERSION:-$(git describe --tags --always --dirty)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 GOARCH=$arch "$GO" build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$work/kahu" ./cmd/kahu
touch -d "@$epoch" "$work/kahu"
buildah --storage-driver vfs --root "$work/store" --runroot "$work/run" bud --quiet --isolation chroot --timestamp "$epoch" --arch "$arch" \
	--format oci -f integrations/kubernetes/Containerfile -t kahu:image "$work" >/dev/null
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
buildah --storage-driver vfs --root "$work/store" --runroot "$work/run" push --quiet kahu:image "oci-archive:$archive"
sha256sum "$archive"
