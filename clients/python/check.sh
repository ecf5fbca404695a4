#!/usr/bin/env bash
# check.sh: checks the Python client as users get it: builds the wheel, installs it from the file, and runs linters, types and tests, all
# but the behaviour suite, with it. Leaves the installed wheel in dist/python/site.
# Needs Python 3.10 or later with venv, .bin/run, and DynamoDB Local at HOLDFAST_DYNAMODB_ENDPOINT.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
HOLDFAST_REQUIREMENTS=$PWD/requirements.txt
. "$root/scripts/cloud/venv.sh"
bin=$(dirname "$HOLDFAST_CLOUD_PYTHON")
ln -sfn "$bin/python" "$root/.bin/python"

quietly() { out=$("$@" 2>&1) || { echo "$out"; exit 1; }; }
quietly "$bin/ruff" check .
quietly "$bin/ruff" format --check .
quietly "$bin/mypy" src tests

./wheel.sh 0.0.0-check
quietly "$bin/pip" install -q --disable-pip-version-check --no-deps --no-index --target "$root/dist/python/site" "$root"/dist/python/*.whl
out=$(PYTHONPATH=$root/dist/python/site "$bin/pytest" -q -p no:cacheprovider 2>&1) || { echo "$out"; exit 1; }
echo "clients/python: $(basename "$root"/dist/python/*.whl): $(tail -n 1 <<<"$out")"
