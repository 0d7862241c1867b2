# The one front door. `make help` lists it.
#
#   PYTHON    the interpreter that makes .venv (3.11 or 3.12)
#   PIP_ARGS  further arguments of every pip call, for example an index with PyTorch's CPU wheels

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
# Named after the content of what is installed, so that a second run installs nothing.
STAMP := $(VENV)/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-rest test-all lint types chaos bench bench-data clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: $(STAMP) ## makes .venv at the versions of constraints.txt, once

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
	  f"$(PYTHON) is Python {sys.version.split()[0]}; SkipRec needs 3.11 or 3.12: make PYTHON=…")'
	@echo "installing into $(VENV) (minutes, once)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) torch # first and alone: pip takes a CPU build of the pinned version where it finds one
	$(PIP) setuptools wheel ninja numpy packaging psutil py-cpuinfo pydantic tqdm einops hjson msgpack
	$(PIP) --no-build-isolation deepspeed # a source package whose setup imports torch
	$(PIP) --editable '.[demo,dev]'
	@rm -f $(VENV)/installed-*
	@touch $@

quickstart: $(STAMP) ## the whole main job on real purchases, in minutes on two cores
	$(PY) jobs/run_quickstart.py

test: $(STAMP) ## linters, types and every test that is not marked slow
	$(PY) tests/run_tiers.py quick

test-rest: $(STAMP) ## the tests that `make test` leaves out
	$(PY) tests/run_tiers.py slow

test-all: $(STAMP) ## everything
	$(PY) tests/run_tiers.py all

lint: $(STAMP) ## ruff and the rules on imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(STAMP) ## mypy, strict on skiprec and cluster
	$(VENV)/bin/mypy

chaos: $(STAMP) ## every fault a run must survive
	$(PY) tests/run_tiers.py all --tier chaos

bench: $(STAMP) ## every benchmark but the builder's
	@status=0; for bench in $(filter-out benchmarks/bench_data.py, $(wildcard benchmarks/bench_*.py)); do \
	  echo "== $$bench"; $(PY) $$bench || status=1; done; exit $$status

bench-data: $(STAMP) ## builds shards from a file of the size of ml-latest
	$(PY) benchmarks/bench_data.py

clean: ## removes .venv and every cache; keeps runs/
	rm -rf $(VENV) build dist .test-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
