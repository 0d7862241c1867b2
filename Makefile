# Installs, checks, tests and benchmarks the project. `make help` lists the targets.
#
#   PYTHON    the interpreter that creates .venv (3.11 or 3.12)
#   PIP_ARGS  further arguments for every pip call, for example an index with PyTorch's CPU wheels

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
# The file's name contains a checksum of the dependencies, so a second run installs nothing.
STAMP := $(VENV)/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

# The native executor, compiled again when its sources change; without a compiler it is left out.
NATIVE := $(VENV)/native-$(shell cat skiprec/inference/native/build.py skiprec/inference/native/src/* 2>/dev/null | cksum | cut -d' ' -f1)
READY := $(STAMP) $(NATIVE)

.DEFAULT_GOAL := help
.PHONY: help packages install quickstart test test-rest test-all lint types chaos bench bench-inference bench-serving bench-daily bench-data clean

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: $(READY) ## creates .venv at the versions of constraints.txt, once

packages: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
	  f"$(PYTHON) is Python {sys.version.split()[0]}; SkipRec needs 3.11 or 3.12: make PYTHON=…")'
	@echo "installing into $(VENV) (minutes, once)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) torch # first and alone, so that pip takes a CPU build of this version if there is one
	$(PIP) setuptools wheel ninja numpy packaging psutil py-cpuinfo pydantic tqdm einops hjson msgpack
	$(PIP) --no-build-isolation deepspeed # a source package whose setup imports torch
	$(PIP) --editable '.[train,serve,demo,onnx,dev]'
	@rm -f $(VENV)/installed-*
	@touch $@

$(NATIVE): $(STAMP)
	$(PY) -m skiprec.inference.native.build
	@rm -f $(VENV)/native-*
	@touch $@

quickstart: $(READY) ## trains and evaluates on real purchases, in minutes on two cores
	$(PY) jobs/run_quickstart.py

test: $(READY) ## runs linters, types and every test that is not marked slow
	$(PY) tests/run_tiers.py quick

test-rest: $(READY) ## runs the tests that `make test` leaves out
	$(PY) tests/run_tiers.py slow

test-all: $(READY) ## runs both, whatever the first one says
	@status=0; for which in quick slow total; do $(PY) tests/run_tiers.py $$which || status=1; done; \
	exit $$status

lint: $(READY) ## runs ruff, clang-format and the rules on imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror skiprec/inference/native/src/*
	$(VENV)/bin/lint-imports

types: $(READY) ## runs mypy, strict on skiprec and cluster
	$(VENV)/bin/mypy

chaos: $(READY) ## tests every fault that a run must survive
	$(PY) tests/run_tiers.py all --tier chaos

LONG := $(patsubst %, benchmarks/bench_%.py, data serving scoring daily)

bench: $(READY) ## runs every benchmark but those that have a target of their own
	@status=0; for bench in $(filter-out $(LONG), $(wildcard benchmarks/bench_*.py)); do \
	  echo "== $$bench"; $(PY) $$bench || status=1; done; exit $$status

bench-inference: $(READY) ## benchmarks the native executor, and peers if the extras bench and onnx are installed
	$(PY) benchmarks/bench_inference.py

bench-serving: $(READY) ## benchmarks the service and batch scoring; trains 128 blocks first, once
	@status=0; for bench in serving scoring; do \
	  echo "== $$bench"; $(PY) benchmarks/bench_$$bench.py || status=1; done; exit $$status

bench-daily: $(READY) ## measures what a warm start saves a week later, on grocery purchases
	$(PY) benchmarks/bench_daily.py

bench-data: $(READY) ## benchmarks building shards from a file of the size of ml-latest
	$(PY) benchmarks/bench_data.py

clean: ## removes .venv and every cache; keeps runs/
	rm -rf $(VENV) build dist .test-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
