#!/usr/bin/env bash
# figures.sh COMMAND [ARG...]: runs go test -v and shows only the figures that tests print ("name: ..." at the start of a
# line) and the packages' results; everything if it fails.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$@" >"$log" 2>&1; then
  grep -E '^(explorer|mutants|stress|exec|client|handoff|outbox|expiry|e2e): |^ok ' "$log"
else
  code=$?
  cat "$log"
  exit $code
fi
