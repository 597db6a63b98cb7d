#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests, of which none may be skipped, then the benchmarks.
#
#   OUT=out/gpu PYTHON=python3 MODELS=folder benchmarks/gpu_session.sh [--quick] [--boxes boxes.npz]
#
# Works in a checkout where frcnn is not installed. $MODELS is what frcnn.benchmarks.engine_models has made, on whatever
# machine; what is missing there is made here. What was found is under $OUT; all goes on where one thing fails, and the
# exit status tells. Where TensorRT-RTX refuses the GPU, the tests of engines are skipped with its reason, and
# engine.json has that reason for an answer: that is a result, no failure.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
python=${PYTHON:-python3}
models=${MODELS:-$out/models}
mkdir -p "$out"
export PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}"

quick=()
for argument in "$@"; do
    [ "$argument" = --quick ] && quick=(--quick)
done

"$python" -m frcnn.benchmarks.engine_models -o "$models" 2>&1 | tee "$out/models.txt"
made=$?
# conftest.py of the other tests needs packages that a GPU machine may not have
FRCNN_REQUIRE_GPU=1 FRCNN_GPU_MODELS="$models" "$python" -m pytest --confcutdir=tests/gpu -m gpu tests/gpu \
    --junitxml="$out/tests.xml" 2>&1 | tee "$out/tests.txt"
tests=$?
"$python" -m frcnn.benchmarks.kernels -o "$out/kernels.json" "$@" 2>&1 | tee "$out/kernels.txt"
kernels=$?
"$python" -m frcnn.benchmarks.engine -o "$out/engine.json" --models-in "$models" ${quick[@]+"${quick[@]}"} 2>&1 |
    tee "$out/engine.txt"
engines=$?
exit $((made || tests || kernels || engines))
