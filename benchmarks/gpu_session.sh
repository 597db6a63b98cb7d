#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests, of which none may be skipped, then the benchmark.
#
#   OUT=out/gpu PYTHON=python3 benchmarks/gpu_session.sh [--quick] [--boxes boxes.npz]
#
# Works in a checkout where frcnn is not installed. The arguments are the benchmark's. What was found is under $OUT; the
# benchmark runs even where a test fails, and the exit status tells.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}"

# conftest.py of the other tests needs packages that a GPU machine may not have
FRCNN_REQUIRE_GPU=1 "$python" -m pytest --confcutdir=tests/gpu -m gpu tests/gpu --junitxml="$out/tests.xml" \
    2>&1 | tee "$out/tests.txt"
tests=$?
"$python" -m frcnn.benchmarks.kernels -o "$out/kernels.json" "$@" 2>&1 | tee "$out/kernels.txt"
benchmark=$?
exit $((tests || benchmark))
