#!/usr/bin/env bash
# with-cloud.sh COMMAND [ARG...]: runs a command with a local engine of the AWS services that the stack uses (ministack,
# with the corrections of scripts/cloud/engine.py), which enforces signatures and IAM policies. The command finds the
# engine at AWS_ENDPOINT_URL, and has the credentials of the account's root user. Needs Python 3.10 or later with venv;
# fetches the engine once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/cloud/venv.sh"

. "$here/engine.sh"

unset AWS_PROFILE AWS_SESSION_TOKEN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
echo "starting the local cloud" >&2
start_engine "the local cloud" 30000 env GATEWAY_PORT=@PORT@ AWS_ENDPOINT_URL=http://127.0.0.1:@PORT@ BIND_HOST=127.0.0.1 \
  MINISTACK_REGION=us-east-1 AUTH=true IOT_MTLS_ENABLED=0 "$HOLDFAST_CLOUD_PYTHON" "$here/cloud/engine.py"
export AWS_ENDPOINT_URL=http://127.0.0.1:$port HOLDFAST_CLOUD_LOG=$engine_log
beside "$@"
