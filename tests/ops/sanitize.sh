#!/usr/bin/env bash
# Runs the op's tests on CPU kernels compiled with the address and undefined-behaviour sanitizers. `make sanitize`.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-.venv/bin}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
torch=$($bin/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
# Leaks are Python's own and many. Everything else ends the run.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
for source in src/t2ilayers/ops/csrc/cpu/*.cpp; do
  # -fno-sanitize=vptr: torch is compiled without the type information that it needs.
  g++ -std=c++17 -O1 -g -fPIC -ffp-contract=off -DTORCH_TARGET_VERSION=0x020b000000000000 -I"$torch/include" \
    -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all \
    -c "$source" -o "$folder/$(basename "$source").o" &
done
wait
g++ -shared -fsanitize=address,undefined "$folder"/*.o -L"$torch/lib" -ltorch_cpu -o "$folder/library.so"
export T2ILAYERS_SANITIZED=$folder/library.so
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" OMP_NUM_THREADS=2 \
  $bin/python - <<'EOF'
import os, sys
import pytest
from t2ilayers.ops import build

build.build = lambda device="cpu", **_: os.environ["T2ILAYERS_SANITIZED"]
# Tests of compilers and of spawned processes have nothing to do with the kernels' memory.
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/ops/test_native_op.py", "tests/ops/test_masked_affine_norm.py",
                      "-k", "not synchronized and not compile and not registration"]))
EOF
