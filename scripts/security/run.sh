#!/usr/bin/env bash
# run.sh: the checks of make security, one after the other; it goes on after one that fails, and then fails.
set -uo pipefail
cd "$(dirname "$0")/../.."
arch=$(go env GOARCH)
[ -f "dist/$arch/status.zip" ] || make -s build ARCHES="$arch" FUNCTIONS=status >/dev/null 2>&1
status=0
for check in api vulnerabilities sbom reproducible; do
  timeout 600 "scripts/security/$check.sh" || { echo "security: $check failed" >&2; status=1; }
done
exit $status
