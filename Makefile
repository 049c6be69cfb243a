# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_SPEC := jobs/demo.yaml
DEMO_SET ?=
export PYTHONWARNINGS := ignore::FutureWarning

.PHONY: venv demo test test-launching test-faults test-docs test-gpu bench-gpu lint format clean

venv: $(STAMP)

# DS_BUILD_OPS=0: DeepSpeed's kernels are compiled when first used, not at installation. --no-compile: so are the modules;
# most of them never are.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# Channels, plan, training by two Ray workers under DeepSpeed, zero-shot table, MLflow.
demo: venv
	$(BIN)/wavetrain channels make --preset demo --store data/demo
	$(BIN)/wavetrain plan $(DEMO_SPEC) $(DEMO_SET)
	$(BIN)/wavetrain train $(DEMO_SPEC) $(DEMO_SET)

# Two processes share the tests; whole runs come first.
TEST_PROCESSES ?= 2
test: venv
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --no-loadscope-reorder

# A real Slurm of four nodes (Debian: slurmctld slurmd slurm-client munge iproute2 slurmdbd mariadb-server) and a Ray cluster.
LAUNCHING ?= tests/e2e
test-launching: venv
	$(BIN)/python -m pytest -m launching -rs $(LAUNCHING)

# Real runs that lose ranks, nodes, disks and trackers.
test-faults: venv
	$(BIN)/python -m pytest -m faults -rs tests/e2e

# The commands of the documentation, page by page.
test-docs: venv
	$(BIN)/python -m pytest -m docs -rs tests/docs

# Kernels, models and steps on one GPU, or with DEVICE=cpu what has a form there. Without a network:
# make test-gpu GPU_PYTHON=python3 KERNEL_SOURCES=folder with the unpacked sources of mamba-ssm and causal-conv1d
DEVICE ?= cuda
GPU_PYTHON ?= $(BIN)/python
KERNEL_SOURCES ?=
GPU_ENVIRONMENT := $(if $(filter $(BIN)/python,$(GPU_PYTHON)),venv)
test-gpu: $(GPU_ENVIRONMENT)
	$(GPU_PYTHON) -m pytest -m gpu tests/gpu --device $(DEVICE) $(if $(KERNEL_SOURCES),--kernel-sources $(KERNEL_SOURCES)) -rs

# HeterCSI's and WiMamba's steps and WiMamba's latency on one GPU, beside the published ones; last a run's steps, which
# have not been seen to end on a GPU.
bench-gpu: export PYTHONPATH := $(CURDIR):$(PYTHONPATH)
bench-gpu: $(GPU_ENVIRONMENT)
	$(GPU_PYTHON) benchmarks/training_step.py --device cuda --size published --samples 128
	$(GPU_PYTHON) benchmarks/wimamba_training.py --device cuda
	$(GPU_PYTHON) benchmarks/wimamba_latency.py --device cuda
	$(GPU_PYTHON) benchmarks/worker_steps.py --device cuda

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
