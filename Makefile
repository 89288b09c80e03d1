# make quickstart   train four models on ml-100k and print one table
# make test         everything that is fast and needs no data of ours      make test-all   everything else too
# make bench        ratios against RecBole in one table                    make lint       format, style, types, house rules
PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=
# test files run side by side in so many processes, each on one core
WORKERS ?= 2

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
INPUTS    := pyproject.toml constraints.txt

# torch first and by itself: whatever index or wheel the user's pip is configured for, the constraint holds, and the
# second command then changes nothing about it. Above Python 3.11 RecBole is installed without its requirements.
define install
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[$(1)]'
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))' && $(PIP) install --no-deps recbole==1.2.1 || \
	 $(PY) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'
	@touch $@
endef

.PHONY: help quickstart test test-all bench bench-all lint install-run install-dev
help:
	@sed -n '1,/^PYTHON/{/^#/s/^# //p;}' Makefile

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	 { echo "recbole-llm needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): $(INPUTS) | $(PY)
	$(call install,offline)

$(DEV_STAMP): $(INPUTS) | $(PY)
	$(call install,dev$(comma)offline$(comma)openai$(comma)lora)
	@touch $(RUN_STAMP)

comma := ,
install-run: $(RUN_STAMP)
install-dev: $(DEV_STAMP)

quickstart: $(RUN_STAMP)
	$(VENV)/bin/recbole-llm experiment quickstart

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not data and not gpu" $(PYTEST_ARGS)

test-all: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile -rs $(PYTEST_ARGS)

bench: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/run.py

bench-all: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/run.py --all

lint: $(DEV_STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/house/test_imports.py
