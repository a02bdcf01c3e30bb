PYTHON ?= python3
BIN := .venv/bin

# Where a GPU is there may be no network: these targets install nothing, and run the sources as they lie here with
# .venv if it is there, else with the PYTHON that has torch. Results lie in $OUT if it is set.
SOURCES := PYTHONPATH=src $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# The least torch that pyproject.toml promises. It comes with CUDA only: some 5 GB.
OLDEST := build/oldest
OLDEST_TORCH := $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)

.PHONY: install wheel test test-slow test-docs test-gpu test-oldest sanitize check cuda-check docs bench demo clean \
  bench-gpu bench-gpu-float32 bench-gpu-bfloat16 bench-gpu-others bench-gpu-model bench-gpu-model-bf16

DEMO := runs/demo

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The pure wheel, and on Linux one that carries the CPU's kernels, both in dist/. What libraries the latter needs of a
# system decides its tag: the one that most machines take is made in the image manylinux_2_28 (release.yml). torch's
# own libraries are those of the torch that is installed.
wheel: install
	rm -rf dist build/wheel
	$(BIN)/python -m build --no-isolation --wheel
	if [ "$$(uname)" = Linux ]; then \
	  T2ILAYERS_WHEEL=platform $(BIN)/python -m build --no-isolation --wheel --outdir build/wheel && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so --wheel-dir dist \
	    build/wheel/*.whl; \
	fi

test: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --quiet

# What takes a quarter of a minute and more by itself.
test-slow: install
	$(BIN)/pytest --quiet -m slow

# The site, in site/: diagrams drawn, tables and plots made of benchmarks/results, then mkdocs.
docs: .venv/installed-docs
	$(BIN)/python docs/tools/diagrams.py build/docs
	$(BIN)/python docs/tools/pictures.py build/docs
	$(BIN)/python docs/tools/overview.py docs/api build/docs
	$(BIN)/python docs/tools/benchmarks.py benchmarks/results build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# Every page in a browser. Needs root, or Chromium and its driver already there.
test-docs: docs
	command -v chromedriver || { apt-get update -qq && apt-get install --yes --quiet --no-install-recommends \
	  chromium chromium-driver; }
	$(BIN)/pytest --quiet tests/docs

# On a machine with a CUDA device; elsewhere every test is skipped. Minutes.
test-gpu:
	$(SOURCES) -m t2ilayers.doctor --build
	$(SOURCES) -m pytest -q -p no:cacheprovider -m gpu tests/ops/test_gpu.py

# Both libraries compiled against the oldest torch, and the op's tests with it.
test-oldest: $(OLDEST)/installed
	PYTHONPATH=src $(OLDEST)/bin/python -m t2ilayers.doctor --build
	PYTHONPATH=src $(OLDEST)/bin/python -m pytest -q -p no:cacheprovider tests/ops

$(OLDEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet 'torch==$(OLDEST_TORCH).*' --editable '.[dev]'
	touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiles, links and loads the CUDA kernels for every listed architecture: needs nvcc, but no GPU.
cuda-check: install
	$(BIN)/python tests/ops/cuda_check.py

# The op's tests on kernels compiled with the address and undefined-behaviour sanitizers.
sanitize: install
	bash tests/ops/sanitize.sh $(BIN)

# Minutes, on an otherwise idle machine; results go to benchmarks/results.
bench: install
	$(BIN)/python benchmarks/op.py
	$(BIN)/python benchmarks/model.py --compile --profile --as-users-run --growth

# Each part takes less than ten minutes, which is what machines are lent for.
bench-gpu: bench-gpu-float32 bench-gpu-bfloat16 bench-gpu-others bench-gpu-model bench-gpu-model-bf16

BENCH_OP := benchmarks/op.py --device cuda --seconds 0.2
bench-gpu-float32:
	$(SOURCES) $(BENCH_OP) --only 'float32 contiguous' --out op_cuda_float32
bench-gpu-bfloat16:
	$(SOURCES) $(BENCH_OP) --only 'bfloat16 channels_last' --out op_cuda_bfloat16
bench-gpu-others:
	$(SOURCES) $(BENCH_OP) --only 'float32 channels_last| float16|bfloat16 contiguous' --out op_cuda_others

BENCH_MODEL := benchmarks/model.py --device cuda --batch 24 --width 64 --compile --profile --seconds 2 --rounds 5
bench-gpu-model:
	$(SOURCES) $(BENCH_MODEL) --out model_cuda_fp32
bench-gpu-model-bf16:
	$(SOURCES) $(BENCH_MODEL) --precision bf16 --out model_cuda_bf16

# Trains at 32 px on drawn shapes, then measures. SEED=1 gives another run.
SEED ?= 0
demo: install
	rm -rf $(DEMO)
	$(BIN)/t2ilayers pretrain --experiment short --data shapes --no-classes --text-dropout 0 --freeze-text 600 \
	  --steps 900 --seed $(SEED) --out $(DEMO)/pretraining
	$(BIN)/t2ilayers train --experiment short --data shapes --no-classes --contrast-weight 1 --contrast-queue 1024 \
	  --steps 1400 --sample-every 400 --seed $(SEED) --encoders $(DEMO)/pretraining/encoders --out $(DEMO)
	$(BIN)/t2ilayers evaluate $(DEMO)/model --data shapes --out $(DEMO)/evaluation.json
	@echo "pictures: $(DEMO)/samples   losses: $(DEMO)/losses.png   results: $(DEMO)/evaluation.json"
	@echo "draw your own: $(BIN)/t2ilayers generate $(DEMO)/model 'a big red star on a black background'"
	@echo "or paint masks in a browser: $(BIN)/t2ilayers app $(DEMO)/model"

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist site
