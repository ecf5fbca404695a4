# shellcheck shell=bash
# Sourced. Creates the Python environment of requirements.txt, or of the file HOLDFAST_REQUIREMENTS, once, and exports
# HOLDFAST_CLOUD_PYTHON. Needs Python 3.10 or later with venv.
requirements=${HOLDFAST_REQUIREMENTS:-$(dirname "${BASH_SOURCE[0]}")/requirements.txt}
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
venv=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/cloud-$(sha256sum "$requirements" | cut -c1-12)
if [ ! -f "$venv/complete" ]; then
  echo "venv: fetching the tools of $requirements" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
  touch "$venv/complete"
fi
export HOLDFAST_CLOUD_PYTHON=$venv/bin/python
