#!/usr/bin/env bash
# with-cloud.sh COMMAND [ARG...]: runs a command beside a local engine of all the AWS services that the stack uses (ministack,
# with scripts/cloud/engine.py's corrections), which enforces signatures and IAM policies. The command finds it at
# AWS_ENDPOINT_URL, as its account's root user. Needs Python 3.10 or later with venv; fetches the engine the first time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cloud/venv.sh"

log=$(mktemp)
engine=
stop() {
  [ -z "$engine" ] || { kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; }
  rm -f "$log"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

unset AWS_PROFILE AWS_SESSION_TOKEN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
for _ in 1 2 3 4 5; do
  port=$((30000 + RANDOM % 10000))
  answers "$port" && continue
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port
  GATEWAY_PORT=$port BIND_HOST=127.0.0.1 MINISTACK_REGION=us-east-1 AUTH=true IOT_MTLS_ENABLED=0 \
    "$HOLDFAST_CLOUD_PYTHON" "$here/cloud/engine.py" >"$log" 2>&1 &
  engine=$!
  while kill -0 "$engine" 2>/dev/null && ! answers "$port"; do sleep 0.1; done
  answers "$port" && kill -0 "$engine" 2>/dev/null && break
  wait "$engine" 2>/dev/null || true
  engine=
done
if [ -z "$engine" ]; then
  echo "with-cloud: the engine did not start:" >&2
  tail -n 50 "$log" >&2
  exit 1
fi
export HOLDFAST_CLOUD_LOG=$log
"$@"
