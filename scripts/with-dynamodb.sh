#!/usr/bin/env bash
# with-dynamodb.sh COMMAND [ARG...]: runs a command with DynamoDB Local, in memory, at $HOLDFAST_DYNAMODB_ENDPOINT, and
# stops DynamoDB Local when the command ends. If the variable is set already, only the command runs. Needs Java 17 or
# later, and Maven once.
set -euo pipefail

if [ -n "${HOLDFAST_DYNAMODB_ENDPOINT:-}" ]; then
  exec "$@"
fi

version=2.6.1
lib=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/dynamodb-local-$version
need() { command -v "$1" >/dev/null || { echo "with-dynamodb: $1 is missing: $2" >&2; exit 1; }; }

need java "DynamoDB Local needs Java 17 or later (Debian: apt-get install openjdk-17-jre-headless)"
major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
if [ "${major:-0}" -lt 17 ]; then
  echo "with-dynamodb: java is version ${major:-unknown}; DynamoDB Local needs 17 or later" >&2
  exit 1
fi
if [ ! -f "$lib/complete" ]; then
  need mvn "Maven fetches DynamoDB Local once (Debian: apt-get install maven)"
  echo "with-dynamodb: fetching DynamoDB Local $version" >&2
  mkdir -p "$lib"
  mvn -q -B -Dstyle.color=never -f "$(dirname "$0")/dynamodb-local.pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$lib" >&2
  touch "$lib/complete"
fi

. "$(dirname "$0")/engine.sh"
start_engine "DynamoDB Local" 20000 java -Xmx512m -Djava.library.path="$lib" -cp "$lib/*" \
  com.amazonaws.services.dynamodbv2.local.main.ServerRunner -inMemory -sharedDb -disableTelemetry -port @PORT@
export HOLDFAST_DYNAMODB_ENDPOINT=http://127.0.0.1:$port
beside "$@"
