#!/usr/bin/env bash
# sam-local.sh: builds template.yaml with the SAM CLI, invokes every function with its event.json, serves the API with
# `sam local start-api`, and runs a cycle through curl and one through lockclient. At a terminal it then serves until
# Ctrl-C. Needs Docker, the SAM CLI, and DynamoDB Local: run it with with-dynamodb.sh. Without access to public.ecr.aws,
# run sam-image.sh first. IAM, streams and events are not emulated, and one request runs at a time: `make e2e` covers
# those.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${HOLDFAST_DYNAMODB_ENDPOINT:?run sam-local.sh with scripts/with-dynamodb.sh, as make sam-local does}"

fail() { echo "sam-local: $*" >&2; exit 1; }
docker version >/dev/null 2>&1 || fail "the Docker engine does not answer: install and start it (https://docs.docker.com/engine/install)"
command -v sam >/dev/null || fail "the SAM CLI is missing: pipx install aws-sam-cli (https://docs.aws.amazon.com/serverless-application-model)"

case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=x86_64 ;; esac
build=dist/sam
overrides="Architecture=$arch DynamoDbEndpoint=http://host.docker.internal:${HOLDFAST_DYNAMODB_ENDPOINT##*:}"
local_flags=(--template "$build/template.yaml" --parameter-overrides "$overrides" --add-host host.docker.internal:host-gateway)
if docker image inspect "public.ecr.aws/lambda/provided:al2023-$arch" >/dev/null 2>&1; then
  local_flags+=(--skip-pull-image)
fi

# sam local passes its environment's credentials and its variables that have a parameter's name on to the functions.
sam=(env -u AWS_PROFILE -u AWS_DEFAULT_PROFILE -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN -u AWS_ROLE_ARN
  -u AWS_WEB_IDENTITY_TOKEN_FILE -u AWS_CONTAINER_CREDENTIALS_RELATIVE_URI -u AWS_CONTAINER_CREDENTIALS_FULL_URI
  -u HOLDFAST_DYNAMODB_ENDPOINT AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_CONFIG_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
  "AWS_DEFAULT_REGION=${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}" SAM_CLI_TELEMETRY=0 CGO_ENABLED=0 sam)
log=$(mktemp)
quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }

. scripts/engine.sh # sets port and engine
trap 'stop_engine; rm -f "$log"' EXIT

echo 'sam-local: building'
quiet "${sam[@]}" validate
quiet "${sam[@]}" validate --lint
quiet "${sam[@]}" build --build-dir "$build" --parameter-overrides "$overrides"
quiet go run ./cmd/holdfast init --dynamodb-endpoint "$HOLDFAST_DYNAMODB_ENDPOINT" --table Table # as sam local resolves !Ref Table

echo 'sam-local: invoking the functions'
for function in Acquire Renew Release Status ForceRelease Rules Expire Stream; do
  answer=$("${sam[@]}" local invoke "$function" --event "functions/${function,,}/event.json" "${local_flags[@]}" 2>"$log") ||
    { cat "$log" >&2; fail "$function cannot be invoked"; }
  case $function:$answer in
    *'"statusCode": 200'* | *'"statusCode": 410'*) ;; # 410: no earlier event has acquired the lease that this one names
    Expire:*batchItemFailures* | Stream:*batchItemFailures*) ;; # no event bus exists here, so that each reports its failure
    *) cat "$log" >&2; fail "$function answered $answer" ;;
  esac
done

echo 'sam-local: serving the API'
start_engine "sam local start-api" 23000 "${sam[@]}" local start-api --port @PORT@ "${local_flags[@]}"
url=http://127.0.0.1:$port
while read -r op want body; do
  got=$(curl -sS -H 'Content-Type: application/json' -o "$log" -w '%{http_code}' "$url/v1/locks/sam:x/$op" -d "$body")
  [ "$got" = "$want" ] || fail "$op $body: $got, want $want: $(cat "$log")"
done <<'EOF'
acquire 200 {"lease":"sam-lease-0000000001"}
acquire 409 {"lease":"sam-lease-0000000002"}
renew 200 {"lease":"sam-lease-0000000001"}
release 200 {"lease":"sam-lease-0000000001"}
release 410 {"lease":"sam-lease-0000000002"}
EOF
HOLDFAST_ENDPOINT=$url quiet go test -count=1 -tags samlocal -run TestSAMLocal ./lockclient
echo "sam-local: every function invoked, a cycle through curl and one through lockclient, on DynamoDB Local"
if [ -t 0 ]; then
  echo "The API is served until Ctrl-C:"
  echo "curl -H 'Content-Type: application/json' $url/v1/locks/deploy:prod/acquire -d '{\"owner\":\"me\"}'"
  wait "$engine"
fi
