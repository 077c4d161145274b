#!/usr/bin/env bash
# Resolves the requirements again; `make lock` calls it. Each lock serves all three versions of Python: a package whose
# version would depend on Python's makes this fail, and a bound in its .in file solves it.
set -euo pipefail
cd "$(dirname "$0")"

resolve() {  # LOCK ARGUMENTS-OF-UV...
  local lock=$1.lock python before
  before=$(mktemp)
  shift
  for python in 3.11 3.12 3.13; do
    cp "$lock" "$before"  # uv keeps the versions of the file that it writes to, where it can
    uv pip compile --quiet "$@" --override overrides.txt --python-version "$python" --output-file "$lock" \
      --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-find-links
    [ "$python" = 3.11 ] || diff "$before" "$lock" || {
      echo "error: envs/$lock: Python $python needs other versions (above); bound them in an .in file" >&2
      exit 1
    }
  done
  rm "$before"
}

resolve cpu requirements.in cpu.in --override cpu-overrides.txt --torch-backend cpu
cp cpu.lock cuda.lock  # the CUDA lock keeps the CPU one's versions where it can
resolve cuda requirements.in cuda.in
resolve no-torch no-torch.in --constraint cpu.lock
