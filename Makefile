# Every target does its own set-up from nothing: the virtual environment .venv with the versions of constraints.txt.
# Needs GNU make and CPython 3.11 or later; another interpreter: make test PYTHON=/path/to/python3.13

PYTHON ?= $(firstword $(shell command -v python3.11) python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-oldest newest test-newest site notebook test-docs audit licences lint format wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

setup: $(STAMP)  ## make the virtual environment .venv (the other targets do this by themselves)

# torch goes first, so that no other package's requirement can bring another build of it. The project itself is
# built by the pinned setuptools of the environment (no build isolation). From Python 3.12 on RecBole comes without
# its requirements, one of which, ray, has no build there; setup.cfg names the others.
$(STAMP): constraints.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "CPython 3.11 or later is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV): about 2 GB, a few minutes the first time"
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch setuptools
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))' || $(PIP_INSTALL) --no-deps recbole
	@touch $@

demo: $(STAMP)  ## train SIGMA next to baselines on ml-100k, print the table and what to do next (6 minutes)
	$(BIN)/python run_recbole_sigma.py demo

# One thread: torch and faiss bring an OpenMP pool each, and on a busy machine two threads are slower than one.
demo test test-all test-oldest test-docs notebook: export OMP_NUM_THREADS := 1

test: $(STAMP)  ## run the tests, except those marked slow; options: make test ARGS="-k trie"
	$(BIN)/python -m pytest $(ARGS)

test-all: $(STAMP)  ## nightly: all tests, the slow ones too, and what share of the code they run
	$(BIN)/python -m pytest -m "slow or not slow" --cov=recbole_sigma --cov=dataset_adapters \
		--cov-report=term:skip-covered $(ARGS)

# A virtual environment of its own, .venv/oldest; build isolation would bring another setuptools.
test-oldest: $(STAMP)  ## run the tests with the oldest versions that setup.cfg allows (constraints-oldest.txt)
	$(PYTHON) -m venv $(VENV)/oldest
	$(VENV)/oldest/bin/python -m pip install --disable-pip-version-check -c constraints-oldest.txt torch setuptools
	$(VENV)/oldest/bin/python -m pip install --disable-pip-version-check -c constraints-oldest.txt \
		--no-build-isolation --editable '.[report,test]'
	$(VENV)/oldest/bin/python -m pytest $(ARGS)

# A Python later than 3.11, where one runs; torch is left out, because its usual build brings 3 GB for GPUs.
NEWEST ?= $(lastword $(foreach p,python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3),\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 12) and print(sys.executable)' 2>/dev/null)))

newest:
	@test -n "$(NEWEST)" || { echo "no Python later than 3.11 runs here: name one, make test-newest NEWEST=/path/to/python3.13"; exit 1; }

test-newest: newest  ## on the newest Python at hand: every file compiles, converters and command line work; without torch
	$(NEWEST) -m venv --clear $(VENV)/newest
	$(VENV)/newest/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt \
		numpy pandas pyyaml tqdm tabulate pyarrow zstandard hypothesis pytest pytest-timeout packaging
	$(VENV)/newest/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt --no-deps recbole
	PYTHONPATH=$(CURDIR) $(VENV)/newest/bin/python -m pytest --confcutdir=tests/adapters tests/adapters tests/packaging/test_newest.py \
		--ignore=tests/adapters/test_roundtrip.py -p no:cacheprovider $(ARGS)

site: $(STAMP)  ## build the pages of docs/ as a site into build/site
	$(BIN)/python -m sphinx -W --keep-going -q -c docs/site . build/site
	@echo "open build/site/docs/index.html"

notebook: $(STAMP)  ## run docs/first_steps.ipynb anew and keep its outputs
	$(BIN)/python docs/run_notebook.py

test-docs: $(STAMP)  ## the site without a warning, the notebook, and every command of the README as printed
	$(BIN)/python -m pytest tests/docs -m "slow or not slow" $(ARGS)

# pip-audit asks the package index for known vulnerabilities; it is no dependency of the project.
audit: $(STAMP)  ## look the pinned versions up among known vulnerabilities (needs the package index)
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

licences: $(STAMP)  ## write docs/licences.md from the metadata of the pinned versions
	$(BIN)/python tests/packaging/licences.py

lint: $(STAMP)  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff sort imports and lay out the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# build/ is removed first, or setuptools would pack modules that no longer exist.
wheel: $(STAMP)  ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build

clean:  ## remove what make built, .venv and caches included; saved models, logs and data stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
