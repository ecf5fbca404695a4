#!/usr/bin/env bash
# sbom.sh [write]: writes a bill of materials (CycloneDX 1.6) beside the zip of each function in dist/, and checks them, and that of the
# command, against CycloneDX's schema; checks that the licences of all modules are allowed. write: checks nothing, so that a release runs no
# tools of PyPI.
set -euo pipefail
cd "$(dirname "$0")/../.."
tool=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
schemas=github.com/CycloneDX/cyclonedx-go@v0.9.3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
GOBIN=$tmp GOFLAGS=-buildvcs=false go install "$tool"
version=$(git describe --tags --always 2>/dev/null || echo unknown)
write() { # BINARY FILE
  "$tmp/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "$version" -output "$2" "$1" 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
}
for binary in dist/*/*/bootstrap; do
  [ -f "$binary" ] || { echo "sbom: dist/ has no functions; run make build first" >&2; exit 1; }
  write "$binary" "$(dirname "$binary").cdx.json"
done
[ "${1:-}" != write ] || exit 0
HOLDFAST_REQUIREMENTS=scripts/security/requirements.txt
. scripts/cloud/venv.sh
CGO_ENABLED=0 go build -trimpath -o "$tmp/holdfast" ./cmd/holdfast
write "$tmp/holdfast" dist/holdfast.cdx.json
write "$tmp/holdfast" "$tmp/again.json"
cmp -s dist/holdfast.cdx.json "$tmp/again.json" || { echo "sbom: two bills of one binary differ" >&2; exit 1; }
"$tmp/cyclonedx-gomod" mod -json -licenses -assert-licenses -noserial -notimestamp -output "$tmp/modules.json" . 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
schema=$(go mod download -json "$schemas" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')/schema
"$HOLDFAST_CLOUD_PYTHON" scripts/security/sbom.py "$schema" "$tmp/modules.json" dist/holdfast.cdx.json dist/*/*.cdx.json
