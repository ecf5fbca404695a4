#!/usr/bin/env bash
# install.sh DIR: installs the peers of the race and builds their drivers into DIR, once for each state of the files that pin them. Needs Go, a
# JDK 17, Maven, Node.js 20 with npm, and Python 3.12 or later with venv (PYTHON names another than python3). It says what is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
missing=
need() { command -v "$1" >/dev/null || missing+="$1 is missing: $2"$'\n'; }
need java "the awslabs client and DynamoDB Local need Java 17 (Debian: apt-get install openjdk-17-jdk-headless)"
need javac "the awslabs client's driver is compiled (Debian: apt-get install openjdk-17-jdk-headless)"
need mvn "Maven fetches the awslabs client (Debian: apt-get install maven)"
need node "@deliveryhero/dynamodb-lock needs Node.js 20 or later (https://nodejs.org)"
need npm "npm fetches @deliveryhero/dynamodb-lock (it comes with Node.js)"
python=${PYTHON:-python3}
"$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null ||
  missing+="$python is missing, is older than 3.12, or has no venv: chainsaws needs Python 3.12 or later; name one with PYTHON=/path/to/python3.12"$'\n'
[ -z "$missing" ] || { printf 'peers: %s' "$missing" >&2; exit 1; }

# fresh NAME FILE...: whether the files have changed since done NAME.
fresh() { [ "$(cat "$dir/$1.sum" 2>/dev/null)" = "$(cat "${@:2}" | sha256sum)" ]; }
installed() { cat "${@:2}" | sha256sum >"$dir/$1.sum"; }

if ! fresh python "$here/python/requirements.txt"; then
  echo "peers: installing the Python clients" >&2
  rm -rf "$dir/venv"
  "$python" -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q --disable-pip-version-check --no-deps -r "$here/python/requirements.txt"
  "$dir/venv/bin/pip" check -q --disable-pip-version-check
  installed python "$here/python/requirements.txt"
fi
if ! fresh node "$here/node/package.json" "$here/node/package-lock.json"; then
  echo "peers: installing the Node.js client" >&2
  mkdir -p "$dir/node"
  cp "$here/node/package.json" "$here/node/package-lock.json" "$dir/node/"
  npm ci --prefix "$dir/node" --silent --no-audit --no-fund
  installed node "$here/node/package.json" "$here/node/package-lock.json"
fi
cp "$here/node/driver.js" "$dir/node/"
cp "$here/python/driver.py" "$dir/"
if ! fresh java "$here/java/pom.xml" "$here/java/Driver.java"; then
  echo "peers: installing the Java client" >&2
  rm -rf "$dir/java"
  mvn -q -B -Dstyle.color=never -f "$here/java/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir/java/lib" >&2
  javac -d "$dir/java/classes" -cp "$dir/java/lib/*" "$here/java/Driver.java"
  installed java "$here/java/pom.xml" "$here/java/Driver.java"
fi
go build -C "$here" -o "$dir/driver" ./driver
go build -C "$here" -o "$dir/race" ./race
