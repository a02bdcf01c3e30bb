PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test test-docs test-gpu sanitize check cuda-check docs bench bench-gpu demo clean

DEMO := runs/demo

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: install
	$(BIN)/pytest --numprocesses 2 --quiet

# The site, in site/: diagrams drawn, tables and plots made of benchmarks/results, then mkdocs.
docs: .venv/installed-docs
	$(BIN)/python docs/tools/diagrams.py build/docs
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

# On a machine with a CUDA device; elsewhere every test is skipped.
test-gpu: install
	$(BIN)/pytest -m gpu tests/ops/test_gpu.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiles, links and loads the CUDA kernels for every listed architecture: needs nvcc, but no GPU.
cuda-check: install
	$(BIN)/python -m t2ilayers.doctor --cuda-check

# The op's tests on kernels compiled with the address and undefined-behaviour sanitizers.
sanitize: install
	bash tests/ops/sanitize.sh $(BIN)

# Minutes, on an otherwise idle machine; results go to benchmarks/results.
bench: install
	$(BIN)/python benchmarks/op.py
	$(BIN)/python benchmarks/model.py --compile --profile --as-users-run --growth

bench-gpu: install
	$(BIN)/python benchmarks/op.py --device cuda
	$(BIN)/python benchmarks/model.py --device cuda --batch 24 --width 64 --compile --profile --out model_cuda_fp32
	$(BIN)/python benchmarks/model.py --device cuda --batch 24 --width 64 --compile --profile --precision bf16 \
	  --out model_cuda_bf16

# Trains at 32 px on drawn shapes, then measures. SEED=1 gives another run.
SEED ?= 0
demo: install
	rm -rf $(DEMO)
	$(BIN)/python examples/train_ssagan.py --data shapes --image-size 32 --ngf 32 --ndf 32 --mask-channels 32 \
	  --batch-size 32 --damsm-steps 600 --steps 1000 --penalty-every 4 --lr-generator 1e-3 \
	  --lr-discriminator 1e-3 --lr-encoders 2e-4 --damsm-weight 0.2 --ema 0.99 --sample-every 250 --seed $(SEED) \
	  --out $(DEMO)
	$(BIN)/python examples/evaluate.py $(DEMO)/model --data shapes --out $(DEMO)/evaluation.json
	@echo "pictures: $(DEMO)/samples   losses: $(DEMO)/losses.png   results: $(DEMO)/evaluation.json"
	@echo "draw your own: $(BIN)/python examples/generate.py $(DEMO)/model 'a big red star on a black background'"
	@echo "or paint masks in a browser: $(BIN)/python examples/app.py $(DEMO)/model"

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist site
