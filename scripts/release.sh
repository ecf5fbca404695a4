#!/usr/bin/env bash
# release.sh VERSION: commits and tags a release of both modules. Users of infra get the root module in the version that
# infra/go.mod requires, since Go ignores the replace directives of dependencies; so infra/go.mod must require the
# released version. The action and the template for GitLab install the release that they are part of.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
version=${1:-}
[[ $version =~ ^v[01]\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] ||
  { echo "release: give a version, such as v0.3.0; from v2 on the module paths must change first" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || { echo "release: there are changes that are not committed" >&2; exit 1; }
for tag in "$version" "infra/$version"; do
  ! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || { echo "release: the tag $tag exists" >&2; exit 1; }
done
go -C infra mod edit -require="github.com/holdfast-lock/holdfast@$version"
echo "$version" >action/VERSION
template=action/gitlab/holdfast.gitlab-ci.yml
sed "s/^    HOLDFAST_VERSION: .*/    HOLDFAST_VERSION: $version/" $template >$template.new
mv $template.new $template
npm=(clients/typescript/package.json clients/typescript/package-lock.json) # whose first ten lines have the client's version
for file in "${npm[@]}"; do
  sed "1,10s/\"version\": \"[^\"]*\"/\"version\": \"${version#v}\"/" "$file" >"$file.new"
  mv "$file.new" "$file"
done
git commit -q -m "Release $version" -- "${npm[@]}" infra/go.mod action/VERSION $template
git tag -a -m "holdfast $version" "$version"
git tag -a -m "holdfast/infra $version" "infra/$version"
echo "release: tagged $version and infra/$version; publish with: git push --atomic origin HEAD $version infra/$version"
