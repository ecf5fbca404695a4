#!/bin/sh
# install.sh: downloads the command of a release, verifies it, and puts it into a directory. It needs tar; curl or wget; and sha256sum or
# shasum. Its settings are in the environment:
#   HOLDFAST_VERSION      the tag of the release, such as v0.1.0
#   HOLDFAST_DIR          the directory; a holdfast that is there already was verified, and is left alone
#   HOLDFAST_RELEASES     a mirror's URL, in place of https://github.com/holdfast-lock/holdfast/releases/download
#   HOLDFAST_ATTESTATION  auto: gh verifies which workflow built the release, if it is installed and has a token; required: it must; off
# GitLab's template has these lines, too: TestTemplateHasTheInstaller.
set -eu
fail() { echo "holdfast: $*" >&2; exit 125; }
version=${HOLDFAST_VERSION:?"the tag of a release, such as v0.1.0"} dir=${HOLDFAST_DIR:?"the directory for the command"}
url=${HOLDFAST_RELEASES:-https://github.com/holdfast-lock/holdfast/releases/download} attestation=${HOLDFAST_ATTESTATION:-auto}

has() { command -v "$1" >/dev/null 2>&1; }
fetch() { # URL FILE
  if has curl; then
    curl --fail --silent --show-error --location --retry 3 --output "$2" "$1"
  elif has wget; then
    wget -q -O "$2" "$1"
  else
    fail "curl or wget is needed to download $1; install one of them"
  fi || fail "$1 cannot be downloaded; is $version a published release, and can this machine reach it?"
}
sha256() {
  if has sha256sum; then
    sha256sum "$1"
  elif has shasum; then
    shasum -a 256 "$1"
  else
    fail "sha256sum or shasum is needed to verify the download; install one of them"
  fi
}

can_attest() { has gh && gh auth token >/dev/null 2>&1; }

if [ -x "$dir/holdfast" ] && [ "$attestation" != required ]; then exit 0; fi
case $(uname -s) in
  Linux) os=linux ;;
  Darwin) os=darwin ;;
  *) fail "releases have no archive for $(uname -s) that this installs; it runs on Linux and macOS" ;;
esac
case $(uname -m) in
  x86_64 | amd64) arch=amd64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) fail "releases have no archive for $(uname -m); build the command with: go install github.com/holdfast-lock/holdfast/cmd/holdfast@$version" ;;
esac
archive=holdfast_${version#v}_${os}_$arch.tar.gz
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/download.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
fetch "$url/$version/checksums.txt" "$tmp/checksums.txt"
fetch "$url/$version/$archive" "$tmp/$archive"
want=$(sed -n "s/^\([0-9a-f]\{64\}\)  $archive\$/\1/p" "$tmp/checksums.txt")
[ -n "$want" ] || fail "checksums.txt of $version does not have $archive; nothing was installed"
got=$(sha256 "$tmp/$archive")
[ "${got%% *}" = "$want" ] || fail "$archive of $version has the SHA-256 ${got%% *}, but checksums.txt says $want; nothing was installed. Try again; if it is the same, report it"
verified="its checksum"
if [ "$attestation" = required ] || { [ "$attestation" = auto ] && can_attest; }; then
  can_attest || fail "attestation is required, and gh, which verifies it, is not installed (https://cli.github.com) or has no token (GH_TOKEN)"
  gh attestation verify "$tmp/$archive" --repo holdfast-lock/holdfast --signer-workflow holdfast-lock/holdfast/.github/workflows/release.yml >"$tmp/gh" 2>&1 ||
    { cat "$tmp/gh" >&2; fail "$archive of $version has no attestation of the project's release workflow that gh can verify; nothing was installed"; }
  verified="its checksum and attestation"
fi
tar -xzf "$tmp/$archive" -C "$tmp" holdfast
mv -f "$tmp/holdfast" "$dir/holdfast"
echo "holdfast: installed $version for $os/$arch in $dir, after verifying $verified" >&2
