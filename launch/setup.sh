#!/usr/bin/env bash
# Make $VENV with the tested pins. Called by make; says what it installs outside of it before it does.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

need_debian() { # package names: install them, saying so
  if ! command -v apt-get >/dev/null; then
    echo "missing: $*. Install them with your system's package manager, then run make again." >&2; exit 1
  fi
  local run=""; [ "$(id -u)" = 0 ] || run="sudo"
  echo "installing from Debian: $*"
  $run apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if [ -z "${PYTHON:-}" ]; then
  echo "no Python 3.11, 3.12 or 3.13 found (transformers 5.23 needs 3.11 or newer): install one, or say make PYTHON=/path/to/python" >&2
  exit 1
fi
missing=()
command -v g++ >/dev/null || missing+=(g++)   # DeepSpeed builds one small C++ op at its first start
"$PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
"$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || missing+=(python3-dev)
[ ${#missing[@]} = 0 ] || need_debian "${missing[@]}"

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
echo "installing the packages of constraints.txt into $VENV"
"$VENV/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e '.[dev,fast]'
"$VENV/bin/python" - <<'P'
import importlib.metadata as m
print("ready:", ", ".join(f"{p} {m.version(p)}" for p in ("torch", "deepspeed", "transformers", "datasets", "datatrove")))
P
