# make run    the default experiment and a short table      make test       unit tests and one small real run
# make bench  ratios measured in one run, as a table        make test-all   all but test-slow: what CI runs
# make table  the grid data set × bits × seed               make test-slow  random kills, thousands of mutated files
# make lint   ruff and mypy                                 make lock       requirements.lock from pyproject.toml
# All of them first make the environment from requirements.lock. Python 3.11, 3.12 or 3.13, and several side by side:
# `make run PYTHON=python3.12`, `make test PYTHON=python3.12 VENV=.venv-3.12`.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# for the stages' own `python`; recipes say $(PY), since macOS's make 3.81 looks for programs in the PATH it began with
export PATH := $(abspath $(VENV))/bin:$(PATH)
READY := $(VENV)/.ready
ACTIVATE = @echo "The environment is in $(VENV). To use dvc and python yourself:  source $(VENV)/bin/activate"
# files in the order of tests/conftest.py, long ones first
PYTEST = $(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: run test test-all test-slow lint bench table lock setup

setup: $(READY)

$(READY): requirements.lock
	@echo "Making $(VENV) from requirements.lock (once; PyTorch is the large part)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $(READY)

run: $(READY)
	@echo "Running the pipeline: dvc repro, then a summary"
	$(PY) -m ssdh run
	$(ACTIVATE)

test: $(READY)
	@echo "Running the unit tests and one small real run; make test-all runs all that CI does"
	$(PYTEST) -m "not slow and not long"
	$(ACTIVATE)

test-all: $(READY)
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PY) -m pytest -m slow

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(READY)
	$(PY) -m benchmarks

table: $(READY)
	$(PY) -m ssdh table

lock: $(READY)
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --universal --python-version 3.11 pyproject.toml --all-extras --no-annotate --quiet \
		--fork-strategy fewest --custom-compile-command "make lock" -o requirements.lock
