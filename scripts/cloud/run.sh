#!/usr/bin/env bash
# run.sh [COMMAND [ARG...]]: deploys dist/cdk to the engine of with-cloud.sh, and runs a command with the stack's
# outputs in HOLDFAST_CLOUD_OUTPUTS. If HOLDFAST_CLOUD_WITHOUT_API names an assembly with a stack HoldfastWithoutApi, it
# deploys that, too, with its outputs in HOLDFAST_CLOUD_OUTPUTS_WITHOUT_API. Without a command it prints how to use the stack, and waits for Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/../.."
echo "deploying the stack" >&2
HOLDFAST_CLOUD_OUTPUTS=$("$HOLDFAST_CLOUD_PYTHON" scripts/cloud/deploy.py "${HOLDFAST_CLOUD_ASSEMBLY:-dist/cdk}" Holdfast)
export HOLDFAST_CLOUD_OUTPUTS
if [ -n "${HOLDFAST_CLOUD_WITHOUT_API:-}" ]; then
  HOLDFAST_CLOUD_OUTPUTS_WITHOUT_API=$("$HOLDFAST_CLOUD_PYTHON" scripts/cloud/deploy.py "$HOLDFAST_CLOUD_WITHOUT_API" HoldfastWithoutApi)
  export HOLDFAST_CLOUD_OUTPUTS_WITHOUT_API
fi
if [ $# -gt 0 ]; then
  if ! "$@"; then
    echo "the engine's last lines:" >&2
    tail -n 40 "$HOLDFAST_CLOUD_LOG" | cut -c1-500 >&2
    exit 1
  fi
  exit
fi
value() { "$HOLDFAST_CLOUD_PYTHON" -c 'import json, os, sys; print(json.loads(os.environ["HOLDFAST_CLOUD_OUTPUTS"])[sys.argv[1]])' "$1"; }
endpoint=$(value Endpoint)
host=${endpoint#http://}
cat <<EOF
The CDK stack runs on this machine, and enforces signatures and policies. Ctrl-C stops it and deletes its data.

endpoint  $endpoint
bus       $(value BusName)
table     $(value TableName)
AWS APIs  $AWS_ENDPOINT_URL (key test, secret test)

Acquire a lock from another shell in this folder (programs with lockclient need "127.0.0.1 ${host%:*}" in /etc/hosts):

export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 HOLDFAST_ENDPOINT=$endpoint
go run ./cmd/holdfast exec deploy:prod -- sleep 5
go run ./cmd/holdfast status deploy:prod

The same with curl (older versions sign a ":" in the path incorrectly, so this lock has none):

curl --aws-sigv4 aws:amz:us-east-1:execute-api --user test:test -H 'Host: $host' -H 'Content-Type: application/json' \\
  $AWS_ENDPOINT_URL/v1/locks/deploy-prod/acquire -d '{"owner":"me","ttl_ms":60000}'

Print the events on the bus until Ctrl-C:

AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL $HOLDFAST_CLOUD_PYTHON scripts/cloud/events.py $(value BusName)

EOF
trap 'kill $! 2>/dev/null; exit' TERM INT
while :; do sleep 3600 & wait $!; done
