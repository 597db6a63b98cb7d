# Both set-up commands work on a system that has only Python (3.11 to 3.13) and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TOOLS := .venv-tools/bin
TOOLS_INSTALLED := .venv-tools/.installed
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE)
# A worker a core; tests differ much in length, so idle workers take from others.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
DEMO := examples/train_demo
OUT := out/demo
BENCH_CPU := demo mobilenet-v3-320 mobilenet-v3-fpn resnet50-fpn

# For whatever imports ONNX Runtime before frcnn, see src/frcnn/__init__.py.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help demo check test test-full test-gpu test-integrations soak soak-full train-demo bench-cpu bench-gpu performance docs lock audit clean

help:
	@echo "make demo        frcnn try: the bundled checkpoint against eager, and one page in $(OUT)"
	@echo "make check       lint, types and the quick tests that need no export (a minute on 2 cores)"
	@echo "make test        lint, types and all tests"
	@echo "make test-full   full-size runs of every model family (about an hour on 2 cores)"
	@echo "make test-gpu    everything that needs an NVIDIA GPU, which must be there"
	@echo "make test-integrations  Ray, Triton, the web service and C++, each for real (needs cmake and a C++ compiler)"
	@echo "make soak        a sample of every attack: hostile files, kills, load (at most 30 minutes)"
	@echo "make soak-full   the attacks in full (hours), written to benchmarks/results/soak.json"
	@echo "make train-demo  train the demo's checkpoint anew"
	@echo "make bench-cpu   frcnn bench of four models on the CPU, in float32, bf16 and int8 (half an hour)"
	@echo "make bench-gpu   the CUDA kernels against torchvision's CUDA operators"
	@echo "make performance docs/performance.md and the README's table from benchmarks/results"
	@echo "make docs        the documentation site, in out/docs"
	@echo "make lock        the locks anew, after a bound in pyproject.toml changed; UPGRADE=--upgrade for newer versions"
	@echo "make audit       known vulnerabilities of everything locked; needs PyPI, or AUDIT='--vulnerability-service osv'"

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "error: Python 3.11 to 3.13 is needed, this is %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
# One package comes as source. It is built with the setuptools of the lock, which is therefore there before it.
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/setuptools.lock
	$(BIN)/$(PIP_INSTALL) --require-hashes --only-binary :all: --requirement .venv/setuptools.lock
	$(BIN)/$(PIP_INSTALL) --require-hashes --only-binary :all: --no-binary tensorrt-rtx-cu13 --no-build-isolation --requirement requirements.lock
	$(BIN)/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS_INSTALLED): tools.lock
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/$(PIP_INSTALL) --require-hashes --only-binary :all: --requirement tools.lock
	@touch $@

demo: $(INSTALLED)
	$(BIN)/frcnn try -o $(OUT)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -p support.selection -m "not full and not gpu and not soak and not integration and not slow" $(PARALLEL) --durations 5

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not full and not gpu and not soak and not integration" $(PARALLEL)

test-full: $(INSTALLED)
	$(BIN)/pytest -m full -s

test-gpu: $(INSTALLED)
	FRCNN_REQUIRE_GPU=1 $(BIN)/pytest -c tests/gpu/pytest.ini --rootdir=. tests/gpu

test-integrations: $(INSTALLED)
	$(BIN)/pytest -m integration tests/integrations

soak: $(INSTALLED)
	$(BIN)/pytest -m soak tests/soak

soak-full: $(INSTALLED)
	FRCNN_SOAK=full $(BIN)/pytest -m soak -s -o faulthandler_timeout=0 tests/soak

train-demo: $(INSTALLED)
	$(BIN)/python $(DEMO)/train.py --out out/train_demo

bench-cpu: $(INSTALLED)
	$(BIN)/python -m maintenance.bench_models --int8 --models $(BENCH_CPU) --results benchmarks/results --batch 1 --budget 360

bench-gpu: $(INSTALLED)
	$(BIN)/python -m maintenance.kernels -o benchmarks/results/kernels.json

performance: $(INSTALLED)
	$(BIN)/python -m maintenance.performance_page

docs: $(INSTALLED)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --builder html docs out/docs

lock: export UV_CUSTOM_COMPILE_COMMAND = make lock
lock: $(TOOLS_INSTALLED)
	$(TOOLS)/$(LOCK) --extra dev pyproject.toml --output-file requirements.lock
	$(TOOLS)/$(LOCK) --group tools --output-file tools.lock

audit: $(TOOLS_INSTALLED)
	$(TOOLS)/python -m maintenance.audit requirements.lock tools.lock $(if $(AUDIT),-- $(AUDIT))

clean:
	rm -rf out build dist
