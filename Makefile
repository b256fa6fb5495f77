# `make` without a target lists the targets. Everything runs in .venv. Paths are relative, so that
# a clone whose path has a space works.
PYTHON ?= python3
BIN := .venv/bin
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH" MLFLOW_DISABLE_TELEMETRY=true

.PHONY: help setup demo check test-fast test test-slow crash-tests cubins mutants smoke-gpu \
  test-gpu kernels bench bench-gpu peers peers-speed team-env

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/installed ## make .venv and install the versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## run the whole pipeline on the starter set and print a summary
	@test -e .git || $(BIN)/python -m dvc config --local core.no_scm true
	$(IN_VENV) dvc repro
	@$(IN_VENV) sg3flow summary

check: setup ## check formatting, lint, layers and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# One process per core with one thread each: on tiny tensors more threads are not faster.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

test-fast: setup ## run the short tests (less than a second each): use it after a change
	$(PYTEST) -m "not gpu and not slow and not medium" $(PARALLEL)

test: check ## run the checks and all tests except slow and gpu
	$(PYTEST) $(PARALLEL)

test-slow: setup ## run the slow tests: experiments, reproductions, mlflow run, real weights
	$(PYTEST) -m "slow and not gpu" $(PARALLEL)

crash-tests: setup ## kill trainings and MLflow servers, check that nothing is lost (minutes)
	$(PYTEST) -m slow tests/training tests/tracking

cubins: setup ## compile all CUDA kernels for all architectures, check them on the host (minutes)
	$(PYTEST) -m slow -n auto --maxprocesses 4 tests/cuda

mutants: setup ## plant faults in the numerics, one at a time; the tests must catch each (minutes)
	$(BIN)/python tests/mutants/plant.py --jobs $(or $(JOBS),2) --only "$(ONLY)"

smoke-gpu: setup ## train each configuration for 2 kimg at 64 px on a GPU; compare precisions
	$(BIN)/python -m pytest -m gpu tests/training/test_smoke_gpu.py -s

# Small cases only: with these tools everything takes a hundred times as long.
SANITIZED := -m gpu -q tests/cuda/test_gpu_ops.py tests/cuda/test_gpu_modulation.py tests/cuda/test_gpu_sums.py -k "half_precision and size0 or activation_with or sums_of_a_layer or upfirdn2d or bias_act or empty or 181"

test-gpu: setup ## test CUDA kernels and graphs on a GPU, with and without tensor cores; check for races
	$(BIN)/sg3flow doctor
	$(BIN)/python -m pytest -m gpu tests/cuda tests/training/test_on_gpu.py
	SG3FLOW_TENSOR_CORES=0 $(BIN)/python -m pytest -m gpu tests/cuda -k half_precision
	@if command -v compute-sanitizer > /dev/null; then set -e; for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 9 \
	  $(BIN)/python -m pytest $(SANITIZED); done; \
	else echo "skipped memcheck and racecheck: no compute-sanitizer on PATH (part of the CUDA toolkit)"; fi

kernels: setup ## build and check the kernels now, not at first use; test their compilers
	$(BIN)/sg3flow doctor
	$(BIN)/python -m pytest -q tests/kernels/test_nvrtc.py tests/kernels/test_cuda_compile.py

bench: setup ## time ops, generators and training steps against pure PyTorch and a naive baseline
	$(BIN)/python benchmarks/ops.py --json build/bench-ops.json
	$(BIN)/python benchmarks/generator.py --json build/bench-generator.json
	$(BIN)/python benchmarks/training.py --json build/bench-training.json

bench-gpu: setup ## time each layer's op and training steps against pure PyTorch on a GPU
	$(BIN)/python benchmarks/gpu.py --json build/bench-gpu.json

peers: ## compare metrics with pytorch-fid, clean-fid, torch-fidelity…, in an environment of its own
	$(PYTHON) benchmarks/peers/environment.py
	build/peers/bin/python benchmarks/peers/run.py $(CHECKS)

peers-speed: ## time and memory of the same metrics in those tools, by turns
	$(PYTHON) benchmarks/peers/environment.py
	build/peers/bin/python benchmarks/peers/speed.py

team-env: ## write the passwords of a team server (docs/team.md); TEAM_HOST= is its name
	@$(PYTHON) deploy/team/new_secrets.py --host "$(or $(TEAM_HOST),localhost)"
