#!/usr/bin/env bash
# vulnerabilities.sh: looks for known vulnerabilities that the code of the three modules can reach, in Go and in modules, with govulncheck. The
# database is the module golang.org/x/vulndb in a pinned version, since the one at vuln.go.dev may be out of reach; the job
# "vulnerabilities" of .github/workflows/ci.yml uses that. VULNDB=VERSION takes another version.
set -euo pipefail
cd "$(dirname "$0")/../.."
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
database=golang.org/x/vulndb@${VULNDB:-v0.0.0-20261105234957-e22db6528018}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
dir=$(go mod download -json "$database" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
[ -d "$dir/data/osv" ] || { echo "vulnerabilities: $database has no folder data/osv" >&2; exit 1; }
GOBIN=$tmp go install "$govulncheck"
# The version of Go that builds releases, which need not be this machine's.
toolchain=$(sed -n 's/^toolchain //p' go.mod)
if ! GOVERSION=$toolchain "$tmp/govulncheck" -test -db "file://$dir/data/osv" ./... >"$tmp/out" 2>&1; then
  grep -v '^ *#[0-9]*:' "$tmp/out" >&2 || true
  echo "vulnerabilities: raise the module, or the toolchain in go.mod ($toolchain)" >&2
  exit 1
fi
# Of the other modules, which are not deployed, the versions are compared only. Accepted:
# GO-2026-6093: the CDK's CodeBuild projects; the construct makes none.
for module in infra bench scripts/image; do
  GOVERSION=$toolchain "$tmp/govulncheck" -C $module -scan module -format json -db "file://$dir/data/osv" >"$tmp/out"
  found=$(sed -n 's/^ *"osv": "\(GO-.*\)",*$/\1/p' "$tmp/out" | sort -u | grep -vx 'GO-2026-6093' || true)
  [ -z "$found" ] || { echo "vulnerabilities: module $module:" $found >&2; exit 1; }
done
echo "vulnerabilities: none of $(find "$dir/data/osv" -name '*.json' | wc -l) known ones is reached with $toolchain"
used=$(go env GOVERSION)
[ "$used" = "$toolchain" ] || echo "vulnerabilities: this machine builds with $used; releases are built with $toolchain"
