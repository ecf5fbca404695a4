#!/usr/bin/env bash
# release-check.sh: makes a release in a clone of the current commit, and uses both modules as a user does: go get, go
# install, and a synthesis whose functions are built from the module. Git's insteadOf replaces the public repository by
# the clone.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tmp=$(mktemp -d)
module=github.com/holdfast-lock/holdfast
version=v0.0.1-check.$(date +%s)
cache=$(go env GOMODCACHE)

clean() {
  for dir in "$cache/$module@$version" "$cache/$module/infra@$version"; do
    if [ -d "$dir" ]; then chmod -R u+w "$dir" && rm -rf "$dir"; fi
  done
  rm -f "$cache/cache/download/$module/@v/$version".* "$cache/cache/download/$module/infra/@v/$version".*
  grep -l "$module\$" "$cache"/cache/vcs/*.info 2>/dev/null | while read -r info; do rm -rf "${info%.info}" "${info%.info}".*; done
  rm -rf "$tmp"
}
trap clean EXIT

git clone -q --no-hardlinks . "$tmp/repo"
export GIT_AUTHOR_NAME=check GIT_AUTHOR_EMAIL=check@localhost GIT_COMMITTER_NAME=check GIT_COMMITTER_EMAIL=check@localhost
(cd "$tmp/repo" && scripts/release.sh "$version" >/dev/null)

export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$tmp/repo.insteadOf" GIT_CONFIG_VALUE_0="https://$module"
export GOPRIVATE=$module GOWORK=off GOBIN=$tmp/bin
mkdir "$tmp/app" && cd "$tmp/app"
case $(go env GOARCH) in arm64) arch=ARM64 ;; *) arch=X86 ;; esac # this machine's, which the build cache may have
cat >main.go <<EOF
package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
	"$module/infra"
	"$module/lockclient"
)

func main() {
	defer jsii.Close()
	_ = lockclient.Options{}
	app := awscdk.NewApp(nil)
	stack := awscdk.NewStack(app, jsii.String("App"), nil)
	infra.NewCoordinator(stack, "Locks", infra.Props{Architecture: infra.$arch})
	app.Synth(nil)
}
EOF
go mod init example.com/app 2>/dev/null
go get "$module/infra@$version" "$module@$version" 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
go mod tidy 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
for m in "$module" "$module/infra"; do
  got=$(go list -m -f '{{.Version}}{{if .Replace}} replaced{{end}}' "$m")
  [ "$got" = "$version" ] || { echo "release-check: the app uses $m $got, not $version" >&2; exit 1; }
done
CDK_OUTDIR=$tmp/out go run . 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
functions=$(grep -c '"Type": "AWS::Lambda::Function"' "$tmp/out/App.template.json")
[ "$functions" = "$(find "$root"/functions/*/main.go | wc -l)" ] || { echo "release-check: $functions functions in the app's template" >&2; exit 1; }
go install "$module/cmd/holdfast@$version" 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
"$tmp/bin/holdfast" --help >/dev/null
echo "release-check: go get of both modules, a synthesis with $functions functions, and go install work"
for file in action/VERSION action/gitlab/holdfast.gitlab-ci.yml; do
  grep -qw -- "$version" "$tmp/repo/$file" || { echo "release-check: $file of the release does not name $version" >&2; exit 1; }
done
cd "$root" && GOWORK=off go test -C scripts/image ./... >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
echo "release-check: the container image is made, pushed to a registry in memory, and runs"
scripts/packages.sh v0.0.1-rc.1 >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
for file in npm/holdfast-lock-client-0.0.1-rc.1.tgz pypi/holdfast_lock-0.0.1rc1-py3-none-any.whl pypi/holdfast_lock-0.0.1rc1.tar.gz; do
  [ -s "dist/packages/$file" ] || { echo "release-check: scripts/packages.sh made no $file" >&2; exit 1; }
done
echo "release-check: the packages for PyPI and npm have the release's version"
# The recipe itself takes minutes: the command for six platforms. The functions' zips are those of make build.
if command -v goreleaser >/dev/null; then
  goreleaser check --quiet && echo "release-check: .goreleaser.yaml is valid"
  cd "$tmp/repo" && make -s build FUNCTIONS=status >/dev/null 2>&1
  goreleaser release --snapshot --clean --skip=publish,before,sbom >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
  archives=$(find dist/release -maxdepth 1 \( -name '*.tar.gz' -o -name '*.zip' \) | wc -l)
  [ "$archives" = 8 ] || { echo "release-check: the release has $archives archives, not 8: six of the command, two of functions" >&2; exit 1; }
  HOLDFAST_RELEASE=$tmp/repo/dist/release go test -count=1 ./action >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
  snapshot=$(sed -n 's/.*"version":"\([^"]*\)".*/\1/p' dist/release/metadata.json)
  go run -C scripts/image . -release "$tmp/repo/dist/release" -version "$snapshot" -revision "$(git rev-parse HEAD)" -layout "$tmp/image" >/dev/null
  echo "release-check: the recipe makes $archives archives; the action installs one, and the image is made of two"
else
  echo "release-check: .goreleaser.yaml is not checked, and no release is built: goreleaser is not installed"
fi
