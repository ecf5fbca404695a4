#!/usr/bin/env bash
# sam-image.sh: builds a stand-in for the image that `sam local` runs functions in, for a machine that cannot reach
# public.ecr.aws, such as one behind a firewall. Elsewhere sam local pulls the image itself, and this script has no use.
#
# A function of ours is a static binary. It needs a shell, certificates, time zones, and the Runtime Interface Emulator,
# which the SAM CLI's package contains. The two tags are those that sam local looks up: the base image, and the one that
# it builds on it. Needs Docker, the SAM CLI, and a static busybox (Debian: apt-get install busybox-static
# ca-certificates).
set -euo pipefail
fail() { echo "sam-image: $*" >&2; exit 1; }
case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=x86_64 ;; esac
tag=public.ecr.aws/lambda/provided:al2023
sam=$(command -v sam) || fail "the SAM CLI is missing"
emulator=$(echo "$(dirname "$(readlink -f "$sam")")"/../lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-"$arch")
[ -f "$emulator" ] || fail "no Runtime Interface Emulator beside $sam"
# A binary that is not static names its loader near its start.
if [ ! -x /bin/busybox ] || grep -aq '/ld-\(linux\|musl\)' <(head -c 4096 /bin/busybox); then fail "/bin/busybox is not a static binary"; fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,etc/pki/tls/certs,etc/ssl/certs,opt,proc,root,sys,tmp,usr/bin,usr/share,var/rapid,var/runtime,var/task}
chmod 1777 "$root/tmp"
cp -L /bin/busybox "$root/bin/busybox"
for applet in cat chmod cp env find grep id ls mkdir mv ps rm sh sleep tail wget; do ln -s busybox "$root/bin/$applet"; done
ln -s ../../bin/busybox "$root/usr/bin/env"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
ln -s ../../../ssl/certs/ca-certificates.crt "$root/etc/pki/tls/certs/ca-bundle.crt"
[ ! -d /usr/share/zoneinfo ] || cp -a /usr/share/zoneinfo "$root/usr/share/"
printf 'root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/tmp:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nsbx_user1051:x:990:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
install -m 0755 "$emulator" "$root/var/rapid/aws-lambda-rie"
tar -C "$root" --owner=0 --group=0 --numeric-owner -cf - . |
  docker import -c 'ENV LAMBDA_TASK_ROOT=/var/task' -c 'ENV LAMBDA_RUNTIME_DIR=/var/runtime' -c 'ENV TZ=:/etc/localtime' \
    -c 'WORKDIR /var/task' -c 'ENTRYPOINT ["/var/rapid/aws-lambda-rie"]' - "$tag-$arch" >/dev/null
docker tag "$tag-$arch" "$tag-rapid-$arch"
echo "sam-image: made $tag-$arch"
