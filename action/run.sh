#!/usr/bin/env bash
# run.sh: the step of the action. It checks the inputs, INPUT_… in the environment, installs the command, and becomes holdfast exec, which
# runs the script under the lock.
set -euo pipefail

# fail reports an error of the inputs as an annotation of the run. The runner would take a line break for the end of the annotation.
fail() {
  local text=$*
  text=${text//'%'/%25} text=${text//$'\r'/%0D} text=${text//$'\n'/%0A}
  echo "::error title=holdfast::$text" >&2
  exit 125
}
one_of() { # INPUT VALUE ALLOWED...
  local input=$1 value=$2 allowed
  shift 2
  for allowed; do [ "$value" != "$allowed" ] || return 0; done
  fail "input $input is \"$value\"; it must be one of: $*"
}

[ "${RUNNER_OS:-}" != Windows ] || fail "this action runs on Linux and macOS runners: holdfast exec does not run on Windows; set runs-on to one of those"
one_of shell "$INPUT_SHELL" bash sh python
one_of attestation "$INPUT_ATTESTATION" auto required off
[ -z "$INPUT_MODE" ] || one_of mode "$INPUT_MODE" read write
[[ $INPUT_RUN == *[![:space:]]* ]] || fail "input run is empty; give the script that is to run while the lock is held"
[ -n "$INPUT_ENDPOINT" ] || [ -n "${HOLDFAST_ENDPOINT:-}" ] || [ -n "${HOLDFAST_TABLE:-}" ] ||
  fail "input endpoint is empty, and HOLDFAST_ENDPOINT is not set; give the coordinator's URL, the output Endpoint of its stack, as one of them"
[ -z "$INPUT_WORKING_DIRECTORY" ] || [ -d "$INPUT_WORKING_DIRECTORY" ] ||
  fail "input working-directory is \"$INPUT_WORKING_DIRECTORY\", which is no directory; is there a step before that checks out the repository?"

locks=()
while IFS= read -r line; do
  line=${line#"${line%%[![:space:]]*}"} line=${line%"${line##*[![:space:]]}"}
  [ -z "$line" ] || locks+=("$line")
done <<<"$INPUT_LOCK"
[ ${#locks[@]} -gt 0 ] || fail "input lock is empty; name a lock, such as deploy:prod, or several, a line each"
for lock in "${locks[@]}"; do
  [[ $lock != -* ]] || fail "input lock is \"$lock\"; the name of a lock must not begin with -"
done

if [ -n "$INPUT_BINARY" ]; then
  [ -x "$INPUT_BINARY" ] || fail "input binary is \"$INPUT_BINARY\", which cannot be executed; give the path of a holdfast command, or leave it empty"
  binary=$(cd "$(dirname "$INPUT_BINARY")" && pwd)/$(basename "$INPUT_BINARY")
else
  version=${INPUT_VERSION:-$(<"$GITHUB_ACTION_PATH/VERSION")}
  [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || fail "input version is \"$version\"; it must be the tag of a release, such as v0.1.0"
  tools=${RUNNER_TOOL_CACHE:-$RUNNER_TEMP}/holdfast/$version/${RUNNER_ARCH:-$(uname -m)}
  HOLDFAST_VERSION=$version HOLDFAST_DIR=$tools HOLDFAST_RELEASES=$INPUT_RELEASES HOLDFAST_ATTESTATION=$INPUT_ATTESTATION GH_TOKEN=$INPUT_TOKEN \
    sh "$GITHUB_ACTION_PATH/install.sh"
  binary=$tools/holdfast
fi

run=${GITHUB_SERVER_URL:-}/${GITHUB_REPOSITORY:-}/actions/runs/${GITHUB_RUN_ID:-}
quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }
metadata="{\"run\":$(quoted "$run"),\"commit\":$(quoted "${GITHUB_SHA:-}"),\"actor\":$(quoted "${GITHUB_ACTOR:-}")}"

flags=(--with-parent --owner="${INPUT_OWNER:-$run}" --metadata="${INPUT_METADATA:-$metadata}")
[ -z "$INPUT_ENDPOINT" ] || flags+=(--endpoint="$INPUT_ENDPOINT")
[ -z "$INPUT_REGION" ] || flags+=(--region="$INPUT_REGION")
[ -z "$INPUT_TTL" ] || flags+=(--ttl="$INPUT_TTL")
[ -z "$INPUT_CAPACITY" ] || flags+=(--capacity="$INPUT_CAPACITY")
[ -z "$INPUT_PERMITS" ] || flags+=(--permits="$INPUT_PERMITS")
[ -z "$INPUT_MODE" ] || flags+=("--$INPUT_MODE")
case $INPUT_WAIT in
  "") ;;
  0 | 0s | 0m | 0h) flags+=(--no-wait) ;;
  *) flags+=(--wait="$INPUT_WAIT") ;;
esac
if [ ${#locks[@]} = 1 ]; then
  flags=("${locks[0]}" "${flags[@]}")
else
  for lock in "${locks[@]}"; do flags+=(--lock="$lock"); done
fi

script=$(mktemp -d "${RUNNER_TEMP:-/tmp}/holdfast.XXXXXX")/script # the runner empties RUNNER_TEMP
printf '%s\n' "$INPUT_RUN" >"$script"
case $INPUT_SHELL in
  bash) command=(bash --noprofile --norc -euo pipefail "$script") ;;
  sh) command=(sh -eu "$script") ;;
  python) command=(python3 "$script") ;;
esac
[ -z "$INPUT_WORKING_DIRECTORY" ] || cd "$INPUT_WORKING_DIRECTORY"
unset INPUT_{LOCK,RUN,SHELL,WORKING_DIRECTORY,ENDPOINT,REGION,WAIT,TTL,CAPACITY,PERMITS,MODE,OWNER,METADATA,VERSION,ATTESTATION,RELEASES,BINARY,TOKEN}
exec "$binary" exec "${flags[@]}" -- "${command[@]}"
