# make run    the default experiment and a short table          make test       every quick test
# make bench  ratios measured in one run, as a table            make test-slow  minutes: random kills of a real run
# make table  the grid data set × bits × seed                   make lint       ruff and mypy
# All of them first make .venv from requirements.lock. Python 3.11, 3.12 or 3.13: `make run PYTHON=python3.12`.

PYTHON ?= python3
PY := .venv/bin/python
# for the stages' own `python`; recipes say $(PY), since macOS's make 3.81 looks for programs in the PATH it began with
export PATH := $(CURDIR)/.venv/bin:$(PATH)
READY := .venv/.ready
ACTIVATE = @echo "The environment is in .venv. To use dvc and python yourself:  source .venv/bin/activate"

.PHONY: run test test-slow lint bench table lock setup

setup: $(READY)

$(READY): requirements.lock
	@echo "Making .venv from requirements.lock (once; PyTorch is the large part)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $(READY)

run: $(READY)
	@echo "Running the pipeline: dvc repro, then a summary"
	$(PY) -m ssdh run
	$(ACTIVATE)

test: $(READY)
	@echo "Running every test that takes seconds; make test-slow runs the others"
	$(PY) -m pytest -m "not slow" -n auto --maxprocesses 8 --dist loadfile
	$(ACTIVATE)

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
		--custom-compile-command "make lock" -o requirements.lock
