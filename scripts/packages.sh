#!/usr/bin/env bash
# packages.sh VERSION: builds the packages of the clients for PyPI and npm into dist/packages, with the version of a release's tag. Needs
# Python 3.10 or later with venv, and Node.js 20 or later.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD out=$PWD/dist/packages
version=${1:-}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-(rc|alpha|beta)\.[0-9]+)?$ ]] ||
  { echo "packages: give a version that both registries take, such as v0.3.0 or v0.3.0-rc.1" >&2; exit 1; }
version=${version#v}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
rm -rf "$out" && mkdir -p "$out/pypi" "$out/npm"

grep '^hatchling==' clients/python/requirements.txt >"$tmp/requirements.txt"
HOLDFAST_REQUIREMENTS=$tmp/requirements.txt
. scripts/cloud/venv.sh
(cd clients/python && HOLDFAST_VERSION=$version "$HOLDFAST_CLOUD_PYTHON" -m hatchling build -t wheel -t sdist -d "$out/pypi")

# In a copy, since npm writes the version into package.json.
git ls-files -z clients/typescript | xargs -0 cp --parents -t "$tmp"
cd "$tmp/clients/typescript"
npm version --no-git-tag-version --allow-same-version "$version" >/dev/null
npm ci --silent --no-audit --no-fund --ignore-scripts
npm run --silent build
npm pack --silent --ignore-scripts --pack-destination "$out/npm" >/dev/null
cd "$root" && ls -l "$out"/*/*
