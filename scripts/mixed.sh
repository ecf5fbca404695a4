#!/usr/bin/env bash
# mixed.sh [ARG...]: the fault campaign with processes of two versions on one table: of this tree, and of the revision $BASE, which is
# taken from git. Further arguments go to the campaign.
# Without $BASE it is the newest tag of a release before this commit; without a tag, the commit at which this branch left main; on main, the
# commit before this one.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "mixed: $1" >&2
  if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    echo "mixed: this checkout is shallow, so the history before it is missing: git fetch --unshallow --tags" >&2
  fi
  exit 1
}

base=${BASE:-}
if [ -z "$base" ]; then
  base=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 'HEAD^' 2>/dev/null || true)
fi
if [ -z "$base" ]; then
  for main in origin/main main; do
    if git rev-parse -q --verify "$main^{commit}" >/dev/null; then
      base=$(git merge-base HEAD "$main" || true)
      break
    fi
  done
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then base=HEAD^; fi
fi
commit=$(git rev-parse -q --verify "$base^{commit}") || fail "there is no revision $base; give one with BASE=REVISION"
git cat-file -e "$commit:scripts/campaign/main.go" 2>/dev/null || fail "$base has no scripts/campaign, which its processes are started with; give a newer revision with BASE=REVISION"

dir=.bin/base-$commit
if [ ! -f "$dir/complete" ]; then
  echo "mixed: building $base ($(git log -1 --format=%cs "$commit"))" >&2
  rm -rf "$dir" && mkdir -p "$dir/src"
  git archive "$commit" | tar -x -C "$dir/src"
  (cd "$dir/src" && go build -trimpath -o ../campaign ./scripts/campaign && go build -trimpath -o ../holdfast ./cmd/holdfast) ||
    fail "$base does not build; the output above says why"
  rm -rf "$dir/src"
  touch "$dir/complete"
fi
go build -trimpath -o .bin/campaign ./scripts/campaign
go build -trimpath -o .bin/holdfast ./cmd/holdfast
echo "mixed: $base ($commit) and this tree on one table" >&2
exec .bin/campaign --holdfast .bin/holdfast --base "$dir" --no-shrink "$@"
