#!/usr/bin/env bash
# wheel.sh VERSION: builds the wheel of the Python client into dist/python. VERSION is that of a release's tag without its v, such as 0.3.0 or
# 0.3.0-rc.1; any other pre-release, such as that of a snapshot, becomes a development version. Needs Python 3.10 or later with venv.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
version=${1:?"wheel: give a version, such as 0.3.0"}
case $version in
  *-rc.*) version=${version/-rc./rc} ;;
  *-*) version=${version%%-*}.dev0+$(tr -c '[:alnum:]\n' . <<<"${version#*-}") ;;
esac
HOLDFAST_REQUIREMENTS=$PWD/requirements.txt
. "$root/scripts/cloud/venv.sh"
rm -rf "$root/dist/python"
export HOLDFAST_VERSION=$version SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
out=$("$HOLDFAST_CLOUD_PYTHON" -m hatchling build -t wheel -d "$root/dist/python" 2>&1) || { echo "$out"; exit 1; }
