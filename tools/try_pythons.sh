#!/usr/bin/env bash
# The wheel on every Python that is installed: each gets a new environment, in which a short digits
# run has to end with its table, in an empty directory with no checkout in sight.
#
#   tools/try_pythons.sh [PYTHON ...]
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

pythons=("$@")
if [ ${#pythons[@]} -eq 0 ]; then
  for version in 3.11 3.12 3.13 3.14; do
    command -v "python$version" > /dev/null && "python$version" -c '' 2> /dev/null && pythons+=("python$version")
  done
fi

pip wheel --quiet --no-deps --wheel-dir "$scratch/wheel" "$checkout"
for python in "${pythons[@]}"; do
  "$python" -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet "$(ls "$scratch"/wheel/*.whl)[digits]"
  mkdir "$scratch/empty"
  (
    cd "$scratch/empty"
    "$scratch/venv/bin/safe-jax" run --config digits --workdir run \
      --config.cache_dir="$scratch/cache" --config.shots=1,4 --config.seeds=1 --config.epochs=5 \
      --config.methods=zero_shot,safe 2> log | tee table
    grep -q '^SAFE ' table
  ) || { tail -20 "$scratch/empty/log"; echo "$python: failed"; exit 1; }
  echo "$python: $("$scratch/venv/bin/python" --version), $("$scratch/venv/bin/pip" list 2> /dev/null | grep -ciE '^(torch|tensorflow) ' || true) of torch and tensorflow, $(du -sm "$scratch/venv" | cut -f1) MB"
  rm -rf "$scratch/venv" "$scratch/empty"
done
