#!/usr/bin/env bash
# Snakemake runs this in its working folder, which must lie in a clone of the repository, once it has made the environment
# of cpu.yaml: the lock and the package go in.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
python=$CONDA_PREFIX/bin/python
UV_TORCH_BACKEND=cpu uv pip install --quiet --python "$python" --no-deps -r envs/cpu.lock
uv pip install --quiet --python "$python" --no-deps --editable .
