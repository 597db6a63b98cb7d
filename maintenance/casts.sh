#!/bin/sh
# Record every verb on the bundled detector in a terminal of 80 columns, as docs/casts/VERB.cast and, of what stands
# there at the end, docs/images/terminal/VERB.svg. Run from the root, on a quiet system. asciinema (PyPI) and svg-term
# (npm's svg-term-cli) are tools of the maintainer; FRCNN, ASCIINEMA and SVG_TERM name other ones than those on PATH.
set -eu
casts=$PWD/docs/casts pictures=$PWD/docs/images/terminal
asciinema=${ASCIINEMA:-asciinema} svg_term=${SVG_TERM:-svg-term}
mkdir -p "$casts" "$pictures" out/casts
[ -z "${FRCNN:-}" ] || PATH=$(dirname "$FRCNN"):$PATH
cd out/casts
rm -rf ./*
export LANG=C.UTF-8 TERM=xterm-256color PS1='$ '

record() { # NAME ROWS COMMAND
    script -qec "stty cols 80 rows $2; $asciinema rec -q --overwrite --cols 80 --rows $2 --env= \
        -c 'echo \"\$ $3\"; $3; true' '$casts/$1.cast'" /dev/null </dev/null
    $svg_term --in "$casts/$1.cast" --out "$pictures/$1.svg" --window --no-cursor --at 10000000 --height "$2"
}

only=${1:-}
cast() { if [ -z "$only" ] || [ "$only" = "$1" ]; then record "$@"; fi; }

frcnn try >/dev/null 2>&1 # what the other verbs work on
mv frcnn-try/bundle bundle
frcnn export bundle/digits.pth --arch frcnn.benchmarks.trial.digits:build -o model.onnx >/dev/null 2>&1
cast frcnn 30 'frcnn'
cast try 8 'frcnn try'
cast export 28 'frcnn export bundle/digits.pth --arch frcnn.benchmarks.trial.digits:build -o model.onnx'
cast inspect 88 'frcnn inspect model.onnx'
cast detect 40 'frcnn detect model.onnx bundle/images'
cast compare 46 'frcnn compare bundle/digits.pth model.onnx --arch frcnn.benchmarks.trial.digits:build --images bundle/images'
cast eval 28 'frcnn eval model.onnx --annotations bundle/instances.json --images bundle/images --checkpoint bundle/digits.pth --arch frcnn.benchmarks.trial.digits:build'
cast bench 100 'frcnn bench bundle/digits.pth model.onnx --arch frcnn.benchmarks.trial.digits:build --images bundle/images --batch 1 --budget 60'
cast tune 18 'frcnn tune model.onnx --images bundle/images'
cast quantize 30 'frcnn quantize model.onnx --images bundle/images --annotations bundle/instances.json -o model-int8.onnx'
cast profile 66 'frcnn profile model.onnx --images bundle/images'
cast build 16 'frcnn build model.onnx --target tensorrt-rtx --batch 1:1:8 --size 320x448'
rm -rf /tmp/repository
cast triton 14 'frcnn triton model.onnx -o /tmp/repository'
cast unpack 74 'frcnn unpack model.frcnn -o engines'
cast doctor 54 'frcnn doctor'
cast mistyped 6 'frcnn detekt model.onnx photo.jpg'
