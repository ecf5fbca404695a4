# shellcheck shell=bash
# Sourced. Fails unless Python 3.10 or later with venv is installed.
command -v python3 >/dev/null || { echo "python3 is missing: the local cloud needs 3.10 or later with venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  { echo "python3 is too old or has no venv: the local cloud needs 3.10 or later with venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
