#!/usr/bin/env bash
# sam-cycle.sh: builds the SAM template, invokes every function with its event.json, serves the API with `sam local start-api`
# on DynamoDB Local, and runs whole cycles through curl and through lockclient. Run it with with-dynamodb.sh, after
# sam-local.sh setup. At a terminal it then goes on serving until Ctrl-C. IAM is not enforced here, one request runs at a time and streams do not run: `make e2e` has those.
set -euo pipefail
cd "$(dirname "$0")/.."
export SAM_LOCAL_PORT=${SAM_LOCAL_PORT:-$((23000 + RANDOM % 1000))}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# sam local hands this environment to the functions, where it has their settings' names.
local_sam() { env -u HOLDFAST_DYNAMODB_ENDPOINT scripts/sam-local.sh "$@"; }
sam() { local_sam sam "$@"; }
quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }
arch=$([ "$(uname -m)" = aarch64 ] && echo arm64 || echo x86_64)
build=dist/sam
overrides="Architecture=$arch DynamoDbEndpoint=http://host.docker.internal:${HOLDFAST_DYNAMODB_ENDPOINT##*:}"

echo 'sam-local: building'
quiet sam validate
quiet sam validate --lint
quiet sam build --build-dir "$build" --parameter-overrides "$overrides"
quiet go run ./cmd/holdfast init --dynamodb-endpoint "$HOLDFAST_DYNAMODB_ENDPOINT" --table Table # as sam local resolves !Ref Table

echo 'sam-local: invoking the functions'
for function in Acquire Renew Release Status ForceRelease Expire Stream; do
  event=functions/${function,,}/event.json
  answer=$(sam local invoke "$function" --template "$build/template.yaml" --event "$event" --parameter-overrides "$overrides" \
    --skip-pull-image --add-host host.docker.internal:host-gateway 2>"$log") || { cat "$log" >&2; exit 1; }
  case $function:$answer in
    *'"statusCode": 200'* | *'"statusCode": 410'*) ;; # an event stands alone: there may be no lease to renew or release
    Expire:*batchItemFailures* | Stream:*batchItemFailures*) ;; # there is no event bus here: what it says is that it tried
    *) echo "sam-cycle: $function answered $answer" >&2; cat "$log" >&2; exit 1 ;;
  esac
done

echo 'sam-local: serving the API'
quiet local_sam api --template "$build/template.yaml" --parameter-overrides "$overrides"
trap 'scripts/sam-local.sh api-stop; rm -f "$log"' EXIT
url=http://127.0.0.1:$SAM_LOCAL_PORT
while read -r op want body; do
  got=$(curl -sS -H 'Content-Type: application/json' -o "$log" -w '%{http_code}' "$url/v1/locks/sam:x/$op" -d "$body")
  [ "$got" = "$want" ] || { echo "sam-cycle: $op $body: $got, want $want: $(cat "$log")" >&2; exit 1; }
done <<'EOF'
acquire 200 {"lease":"sam-lease-0000000001"}
acquire 409 {"lease":"sam-lease-0000000002"}
renew 200 {"lease":"sam-lease-0000000001"}
release 200 {"lease":"sam-lease-0000000001"}
release 410 {"lease":"sam-lease-0000000002"}
EOF
HOLDFAST_ENDPOINT=$url quiet go test -count=1 -tags samlocal -run TestSAMLocal ./lockclient
echo "sam-local: 7 functions invoked, a cycle by curl and one by lockclient, on DynamoDB Local"
if [ -t 0 ]; then
  echo "It goes on serving until Ctrl-C:"
  echo "curl -H 'Content-Type: application/json' $url/v1/locks/deploy:prod/acquire -d '{\"owner\":\"me\"}'"
  while :; do sleep 3600 & wait $!; done
fi
