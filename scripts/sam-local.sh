#!/usr/bin/env bash
# sam-local.sh - run AWS SAM CLI's local emulation without pulling an image.
#
# `sam local ...` wants the image public.ecr.aws/lambda/provided:al2023-*.
# A Go function on provided.al2023 is one static binary that needs next to
# nothing from it, so this script makes a small stand-in (busybox, CA
# certificates, time zones, and the Runtime Interface Emulator that ships
# inside the aws-sam-cli package), and tags it with the names SAM looks up.
# A real image that already has those names is left alone and used.
#
#   sam-local.sh setup        docker engine (if missing), SAM CLI venv, dockerd, image
#   sam-local.sh start        dockerd and image only (needs a former setup)
#   sam-local.sh stop         stop start-api and the dockerd that this script started
#   sam-local.sh status       what is installed and running; exit 0 when ready
#   sam-local.sh sam ARGS...  run the venv's sam with a hermetic environment
#   sam-local.sh api ARGS...  `sam local start-api ARGS` in the background; waits until it listens.
#                             The function reaches services of this machine as host.docker.internal
#   sam-local.sh api-stop     stop it, and remove what it left
#   sam-local.sh clean        stop, remove the stand-in image and the state directory
#
# Settings (environment):
#   SAM_LOCAL_DIR      state: venv, logs, pid files  (default: ~/.cache/holdfast/sam)
#   SAM_CLI_VERSION    aws-sam-cli version           (default below)
#   SAM_LOCAL_PYTHON   python for the venv, 3.10+    (default: python3)
#   SAM_LOCAL_PORT     port of `api`                 (default: 3000)
#   SAM_LOCAL_WAIT     seconds to wait for a daemon  (default: 60)
#   DOCKERD_ARGS       more arguments for dockerd
#   SAM_LOCAL_KEEP_AWS_ENV=1  hand the caller's AWS credentials to `sam local`
set -euo pipefail
umask 022

SAM_CLI_VERSION=${SAM_CLI_VERSION:-1.170.0}
STATE=${SAM_LOCAL_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/sam}
PYTHON=${SAM_LOCAL_PYTHON:-python3}
PORT=${SAM_LOCAL_PORT:-3000}
WAIT=${SAM_LOCAL_WAIT:-60}
RECIPE=1 # raise it when the stand-in's contents change
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'sam-local: %s\n' "$*" >&2; }
die() { printf 'sam-local: ERROR: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

case "$(uname -s)/$(uname -m)" in
  Linux/x86_64) ARCH=x86_64 ;;
  Linux/aarch64) ARCH=arm64 ;;
  *) die "unsupported system $(uname -s)/$(uname -m): Linux on x86_64 or aarch64 only" ;;
esac
REPO=public.ecr.aws/lambda/provided
BASE_TAG=$REPO:al2023-$ARCH
RAPID_TAG=$REPO:al2023-rapid-$ARCH

case $STATE in /*) ;; *) STATE=$PWD/$STATE ;; esac
[ "$STATE" != / ] || die "SAM_LOCAL_DIR must not be /"
VENV=$STATE/venv
DOCKERD_PID=$STATE/dockerd.pid DOCKERD_LOG=$STATE/dockerd.log
API_PID=$STATE/api.pid API_LOG=$STATE/api.log

# One of these at a time per state directory. Daemons must not inherit fd 9.
lock() {
  mkdir -p "$STATE"
  [ -e "$STATE/.gitignore" ] || echo '*' >"$STATE/.gitignore"
  exec 9>"$STATE/.lock"
  flock -w 900 9 || die "another sam-local.sh has held $STATE/.lock for 15 minutes"
}

SUDO=()
if [ "$(id -u)" != 0 ]; then SUDO=(sudo -n); fi
as_root() {
  if [ "${#SUDO[@]}" -gt 0 ] && ! sudo -n true 2>/dev/null; then
    die "'$1' needs root: run as root or allow passwordless sudo"
  fi
  "${SUDO[@]}" "$@"
}

# --- packages ---------------------------------------------------------------

APT_UPDATED=
apt_install() {
  have apt-get || die "missing: $*. There is no apt-get here: install them by hand"
  local log=$STATE/apt.log try
  if [ -z "$APT_UPDATED" ]; then
    for try in 1 2 3; do
      as_root apt-get update -q >"$log" 2>&1 && { APT_UPDATED=1; break; }
      [ "$try" = 3 ] || sleep $((try * 3))
    done
    [ -n "$APT_UPDATED" ] || { tail -n 15 "$log" >&2; die "apt-get update failed, see $log"; }
  fi
  say "apt-get install $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; die "apt-get install $* failed, see $log"; }
}

docker_up() { have docker && docker version -f '{{.Server.Version}}' >/dev/null 2>&1; }

ensure_docker_installed() {
  docker_up && return 0 # whoever runs it
  [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST does not answer"
  if ! have dockerd || ! have containerd || ! have runc; then apt_install docker.io; fi
  have docker || apt_install docker-cli # a package of its own from Debian 13 on
  have dockerd || die "docker.io is installed but dockerd is not on PATH"
  have docker || die "docker.io is installed but the docker command is not on PATH"
}

ensure_venv() {
  local marker=$VENV/.sam-cli-version want="$SAM_CLI_VERSION"
  if [ "$(cat "$marker" 2>/dev/null)" = "$want" ] && [ -x "$VENV/bin/sam" ]; then return 0; fi
  have "$PYTHON" || die "$PYTHON not found: set SAM_LOCAL_PYTHON"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$PYTHON is $("$PYTHON" -V 2>&1), aws-sam-cli needs 3.10 or newer: set SAM_LOCAL_PYTHON"
  "$PYTHON" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  say "installing aws-sam-cli $want"
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV" || die "cannot make a venv with $PYTHON (is python3-venv installed?)"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check "aws-sam-cli==$want" >"$STATE/pip.log" 2>&1 ||
    { tail -n 15 "$STATE/pip.log" >&2; die "pip install aws-sam-cli==$want failed, see $STATE/pip.log"; }
  "$VENV/bin/sam" --version >/dev/null || die "aws-sam-cli $want does not start"
  echo "$want" >"$marker"
}

# --- dockerd ----------------------------------------------------------------

# pid_is FILE NAME...: prints the pid in FILE if that process runs one of NAME
pid_is() {
  local file=$1 pid name comm; shift
  pid=$(cat "$file" 2>/dev/null) || return 1
  case $pid in '' | *[!0-9]*) return 1 ;; esac
  comm=$(cat "/proc/$pid/comm" 2>/dev/null) || return 1
  for name in "$@"; do [ "$comm" = "$name" ] && { echo "$pid"; return 0; }; done
  return 1
}

ensure_dockerd() {
  docker_up && return 0
  ensure_docker_installed
  docker_up && return 0
  # A pid file that outlived its daemon stops the next one once the number is reused.
  local ctd=/run/docker/containerd/containerd.pid
  pid_is "$DOCKERD_PID" dockerd >/dev/null || as_root rm -f "$DOCKERD_PID"
  pid_is "$ctd" containerd dockerd >/dev/null || as_root rm -f "$ctd"
  if ! pid_is "$DOCKERD_PID" dockerd >/dev/null; then
    say "starting dockerd, log in $DOCKERD_LOG"
    as_root true
    # shellcheck disable=SC2086
    (
      exec >"$DOCKERD_LOG" 2>&1 </dev/null 9>&-
      exec "${SUDO[@]}" setsid dockerd --pidfile "$DOCKERD_PID" ${DOCKERD_ARGS:-}
    ) &
  fi
  local end=$((SECONDS + WAIT)) born=$SECONDS
  until docker_up; do
    if [ $((SECONDS - born)) -ge 3 ] && ! pid_is "$DOCKERD_PID" dockerd >/dev/null; then
      tail -n 20 "$DOCKERD_LOG" >&2; die "dockerd ended at once, see $DOCKERD_LOG"
    fi
    [ "$SECONDS" -lt "$end" ] ||
      { tail -n 20 "$DOCKERD_LOG" >&2; die "dockerd does not answer after ${WAIT}s (may this user open its socket?), see $DOCKERD_LOG"; }
    sleep 0.3
  done
}

# end_pid PID SECONDS: SIGTERM, and SIGKILL when that is not enough
end_pid() {
  local i
  as_root kill -TERM "$1" 2>/dev/null || return 0
  for ((i = 0; i < $2 * 5; i++)); do
    [ -e "/proc/$1" ] || return 0
    sleep 0.2
  done
  say "process $1 ignored SIGTERM for $2 s, killing it"
  as_root kill -KILL "$1" 2>/dev/null || true
}

stop_dockerd() {
  local pid
  if pid=$(pid_is "$DOCKERD_PID" dockerd); then
    say "stopping dockerd ($pid)"
    end_pid "$pid" 30
  fi
  as_root rm -f "$DOCKERD_PID"
}

# --- image ------------------------------------------------------------------

rie_path() {
  local f
  f=$(echo "$VENV"/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-"$ARCH")
  [ -f "$f" ] || die "no runtime interface emulator in $VENV: run '$0 setup' first"
  echo "$f"
}

image_label() { docker image inspect -f '{{index .Config.Labels "sam-local.fingerprint"}}' "$1" 2>/dev/null; }

ensure_image() {
  local rie want tag label missing=
  rie=$(rie_path)
  want=$RECIPE-$(sha256sum <"$rie" | cut -c1-16)
  for tag in "$BASE_TAG" "$RAPID_TAG"; do
    if label=$(image_label "$tag"); then
      case $label in
        "$want") ;;
        '' | '<no value>') # not ours: the real one, or what SAM built on it
          [ "$tag" = "$BASE_TAG" ] && { say "using the $BASE_TAG that is already here"; return 0; } ;;
        *) missing=1 ;;
      esac
    else missing=1; fi
  done
  [ -n "$missing" ] || return 0

  if ! is_static /bin/busybox || ! [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    apt_install busybox-static ca-certificates
    is_static /bin/busybox || die "/bin/busybox is not a static binary"
  fi
  say "making the stand-in image $BASE_TAG"
  local root=$STATE/rootfs a
  rm -rf "$root"
  mkdir -p "$root"/{bin,dev,etc/pki/tls/certs,etc/ssl/certs,opt,proc,root,sys,tmp,usr/bin,usr/share,var/rapid,var/runtime,var/task}
  chmod 1777 "$root/tmp"
  cp -L /bin/busybox "$root/bin/busybox"
  for a in cat chmod cp env find grep id ls mkdir mv ps rm sh sleep tail wget; do ln -s busybox "$root/bin/$a"; done
  ln -s ../../bin/busybox "$root/usr/bin/env"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  ln -s ../../../ssl/certs/ca-certificates.crt "$root/etc/pki/tls/certs/ca-bundle.crt"
  [ ! -d /usr/share/zoneinfo ] || cp -a /usr/share/zoneinfo "$root/usr/share/"
  printf 'root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/tmp:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nsbx_user1051:x:990:\n' >"$root/etc/group"
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
  install -m 0755 "$rie" "$root/var/rapid/aws-lambda-rie"
  tar -C "$root" --owner=0 --group=0 --numeric-owner -cf - . |
    docker import -c "LABEL sam-local.fingerprint=$want" -c 'ENV LAMBDA_TASK_ROOT=/var/task' \
      -c 'ENV LAMBDA_RUNTIME_DIR=/var/runtime' -c 'ENV TZ=:/etc/localtime' \
      -c 'WORKDIR /var/task' -c 'ENTRYPOINT ["/var/rapid/aws-lambda-rie"]' - "$BASE_TAG" >/dev/null ||
    die "docker import of the stand-in image failed"
  docker tag "$BASE_TAG" "$RAPID_TAG"
  rm -rf "$root"
  docker run --rm --network none --entrypoint /bin/sh "$RAPID_TAG" -c 'test -x /var/rapid/aws-lambda-rie' ||
    die "the stand-in image does not run"
}

# a dynamic binary names its loader (/lib64/ld-linux-x86-64.so.2, /lib/ld-musl-...) near its start
is_static() { [ -x "$1" ] && ! grep -aq '/ld-\(linux\|musl\)' <(head -c 4096 "$1"); }

# --- sam --------------------------------------------------------------------

sam_env() {
  export SAM_CLI_TELEMETRY=0 AWS_EC2_METADATA_DISABLED=true
  export CGO_ENABLED=0 # sam build leaves cgo on for the machine's own architecture: the binary would want glibc
  if [ "${1:-}" = local ] && [ -z "${SAM_LOCAL_KEEP_AWS_ENV:-}" ]; then
    # sam local hands the caller's credentials to the function, and asks STS whose they are
    # (a dozen seconds of retries without a network). With none it skips STS and the function
    # gets defaultkey/defaultsecret.
    unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN \
      AWS_SECURITY_TOKEN AWS_ROLE_ARN AWS_WEB_IDENTITY_TOKEN_FILE \
      AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_CONTAINER_CREDENTIALS_FULL_URI
    export AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_CONFIG_FILE=/dev/null
  fi
  if [ -z "${AWS_REGION:-}${AWS_DEFAULT_REGION:-}" ]; then export AWS_DEFAULT_REGION=us-east-1; fi
  [ -x "$VENV/bin/sam" ] || die "SAM CLI is not installed in $VENV: run '$0 setup' first"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

api_start() {
  local pid end a
  sam_env local
  for a in "$@"; do
    case $a in --port | -p | --port=* | --host | --host=*) die "use SAM_LOCAL_PORT for the port; the host is 127.0.0.1" ;; esac
  done
  docker_up || die "the docker engine is not running: run '$0 start' first"
  if pid=$(pid_is "$API_PID" sam python python3); then die "start-api already runs ($pid): '$0 api-stop' first"; fi
  ! port_open "$PORT" || die "port $PORT is taken: set SAM_LOCAL_PORT"
  (
    exec >"$API_LOG" 2>&1 </dev/null 9>&-
    exec setsid "$VENV/bin/sam" local start-api --host 127.0.0.1 --port "$PORT" --skip-pull-image \
      --add-host host.docker.internal:host-gateway "$@"
  ) &
  pid=$!
  echo "$pid" >"$API_PID"
  end=$((SECONDS + WAIT))
  until port_open "$PORT"; do
    [ -e "/proc/$pid" ] || { tail -n 20 "$API_LOG" >&2; rm -f "$API_PID"; die "start-api ended, see $API_LOG"; }
    [ "$SECONDS" -lt "$end" ] || { tail -n 20 "$API_LOG" >&2; api_stop; die "start-api does not listen after ${WAIT}s, see $API_LOG"; }
    sleep 0.2
  done
  say "start-api listens on http://127.0.0.1:$PORT, log in $API_LOG"
}

api_stop() {
  local pid ids
  if pid=$(pid_is "$API_PID" sam python python3); then
    end_pid "$pid" 20 # not SIGINT: a background job of a script ignores that
  fi
  # a start-api that was killed leaves its containers; their ids are in its log
  ids=$(sed -n 's/.*SAM_CONTAINER_ID: \([0-9a-f]\{64\}\).*/\1/p' "$API_LOG" 2>/dev/null || true)
  if [ -n "$ids" ] && docker_up; then
    # shellcheck disable=SC2086
    docker rm -f $ids >/dev/null 2>&1 || true
  fi
  rm -f "$API_PID" "$API_LOG.old"
  [ ! -e "$API_LOG" ] || mv "$API_LOG" "$API_LOG.old"
}

status() {
  local rc=0
  if [ -x "$VENV/bin/sam" ]; then echo "sam:     $(cat "$VENV/.sam-cli-version" 2>/dev/null) in $VENV"; else echo "sam:     missing"; rc=1; fi
  if docker_up; then
    echo "docker:  $(docker version -f 'client {{.Client.Version}}, server {{.Server.Version}}')$(pid_is "$DOCKERD_PID" dockerd >/dev/null && echo ', started by this script')"
    if docker image inspect "$RAPID_TAG" >/dev/null 2>&1 && docker image inspect "$BASE_TAG" >/dev/null 2>&1; then
      echo "image:   $BASE_TAG ($(image_label "$BASE_TAG"))"
    else echo "image:   missing"; rc=1; fi
  else echo "docker:  not running"; rc=1; fi
  if pid_is "$API_PID" sam python python3 >/dev/null; then echo "api:     http://127.0.0.1:$PORT"; else echo "api:     stopped"; fi
  return $rc
}

case "${1:-}" in
  setup) lock; ensure_docker_installed; ensure_venv; ensure_dockerd; ensure_image; say "ready" ;;
  start) lock; rie_path >/dev/null; ensure_dockerd; ensure_image; say "ready" ;;
  stop) lock; api_stop; stop_dockerd ;;
  status) status ;;
  sam) shift; sam_env "${1:-}"; exec "$VENV/bin/sam" "$@" ;;
  api) shift; lock; api_start "$@" ;;
  api-stop) lock; api_stop ;;
  clean)
    lock
    api_stop
    if docker_up; then
      for t in "$RAPID_TAG" "$BASE_TAG"; do
        case $(image_label "$t") in '' | '<no value>') ;; *) docker rmi -f "$t" >/dev/null ;; esac
      done
    fi
    stop_dockerd
    rm -rf "${STATE:?}" ;;
  *) sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2; exit 2 ;;
esac
