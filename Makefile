# Both set-up commands work on a machine that has only Python (3.11 to 3.13) and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := examples/train_demo
OUT := out/demo

.PHONY: help demo test test-full test-gpu train-demo bench-cpu bench-gpu clean

help:
	@echo "make demo        checkpoint -> model.onnx -> annotated pictures -> table against eager"
	@echo "make test        lint, types and all tests"
	@echo "make test-full   full-size runs of every model family (about an hour on 2 cores)"
	@echo "make test-gpu    everything that needs an NVIDIA GPU; a skipped test fails"
	@echo "make train-demo  train the demo's checkpoint anew"
	@echo "make bench-cpu   speed against eager and the naive export, full-size models"
	@echo "make bench-gpu   the CUDA kernels against torchvision's CUDA operators"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "error: Python 3.11 to 3.13 is needed, this is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python $(DEMO)/scenes.py --count 12 --seed 7 -o $(OUT)/scenes
	$(BIN)/frcnn export $(DEMO)/digits.pth --arch $(DEMO)/model.py:build -o $(OUT)/model.onnx
	$(BIN)/frcnn inspect $(OUT)/model.onnx
	$(BIN)/frcnn detect $(OUT)/model.onnx $(OUT)/scenes/images -o $(OUT)/annotated --json $(OUT)/detections.json --score 0.5
	$(BIN)/frcnn compare $(DEMO)/digits.pth $(OUT)/model.onnx --arch $(DEMO)/model.py:build --images $(OUT)/scenes/images
	@echo "look at the pictures in $(OUT)/annotated"

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not full and not gpu"

test-full: $(INSTALLED)
	$(BIN)/pytest -m full -s

test-gpu: $(INSTALLED)
	FRCNN_REQUIRE_GPU=1 PYTHONPATH=src:tests $(BIN)/pytest --confcutdir=tests/gpu -m gpu tests/gpu

train-demo: $(INSTALLED)
	$(BIN)/python $(DEMO)/train.py --out out/train_demo

bench-cpu: $(INSTALLED)
	$(BIN)/python -m frcnn.benchmarks.cpu -o benchmarks/results/cpu.json

bench-gpu: $(INSTALLED)
	$(BIN)/python -m frcnn.benchmarks.kernels -o benchmarks/results/kernels.json

clean:
	rm -rf out build dist
