#!/usr/bin/env bash
# reproducible.sh: builds functions a second time, in a copy of the tree at another path, with its own build cache, home, user name, time zone,
# file times and umask, and compares the zips with those in dist/. FUNCTIONS='status ...', ARCHES='arm64 amd64': which; those that
# dist/ lacks are built first. Nothing of the first build is used but downloaded modules, whose checksums Go compares with go.sum.
set -euo pipefail
cd "$(dirname "$0")/../.."
functions=${FUNCTIONS:-status}
arches=${ARCHES:-$(go env GOARCH)}
root=$PWD
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
copy="$tmp/another folder"
mkdir -p "$copy" "$tmp/home"
git ls-files -z -co --exclude-standard | tar -c --null -T - --mtime=2001-02-03 --ignore-failed-read | tar -x -C "$copy"
for arch in $arches; do for f in $functions; do
  [ -f "dist/$arch/$f.zip" ] || { echo "reproducible: dist/$arch/$f.zip is missing; run make build first" >&2; exit 1; }
done; done
(
  umask 077
  cd "$copy"
  env -i PATH="$PATH" HOME="$tmp/home" USER=somebody LOGNAME=somebody TZ=Pacific/Kiritimati LC_ALL=C GOMODCACHE="$(go -C "$root" env GOMODCACHE)" GOCACHE="$tmp/cache" \
    GOPROXY=off GOTOOLCHAIN="$(go -C "$root" env GOTOOLCHAIN)" make -s build FUNCTIONS="$functions" ARCHES="$arches" >"$tmp/log" 2>&1
) || { cat "$tmp/log" >&2; exit 1; }
count=0
for arch in $arches; do for f in $functions; do
  cmp "dist/$arch/$f.zip" "$copy/dist/$arch/$f.zip" || { echo "reproducible: two builds of $f for $arch differ" >&2; exit 1; }
  count=$((count + 1))
done; done
echo "reproducible: two builds of $count zips are equal ($functions; $arches)"
