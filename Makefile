# Every target sets up all it needs. PYTHON chooses the interpreter the environment is made from.
PYTHON ?= python3
PYTEST_ARGS ?=
# Test processes side by side; one thread each, so that they do not compete for the cores.
WORKERS ?= auto
PYTEST := -m pytest -n $(WORKERS) --dist worksteal

# Paths stay relative, so that the checkout may lie in a folder with spaces in its name.
BIN := .venv/bin
PIP_INSTALL := -m pip install -qq --disable-pip-version-check -c constraints.txt

# PyTorch alone, and the pair that fits together where torchvision is needed: the constraints cannot hold both.
TORCH := torch==2.13.0
TORCH_PAIR := torch==2.14.1 torchvision==0.29.1

# What tests of the page load into the browser. Without npm they say what is missing.
PAGE_TOOLS := $(if $(shell command -v npm),tests/page-tools/node_modules/.made)

# What needs anomalib runs in an environment of its own.
ANOMALIB_TESTS := OMP_NUM_THREADS=1 .venv-anomalib/bin/python $(PYTEST)
TESTS := OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

.PHONY: demo test test-all prepared lint clean
.DELETE_ON_ERROR:

# Train, evaluate and report on a small synthetic product, which `advrad serve demo-run` shows in the browser.
demo: .venv/.core
	$(BIN)/advrad demo

# Style, types, import order, then all tests but the slow ones.
test: prepared
	$(ANOMALIB_TESTS) -m "anomalib and not slow" $(PYTEST_ARGS)
	$(TESTS) -m "not slow" $(PYTEST_ARGS)

# The slow tests too.
test-all: prepared
	$(ANOMALIB_TESTS) -m anomalib $(PYTEST_ARGS)
	$(TESTS) $(PYTEST_ARGS)

# Side by side, because pip and mypy use one core each.
prepared:
	@$(MAKE) --no-print-directory -j 2 lint .venv-anomalib/.made $(PAGE_TOOLS)

lint: .venv/.test
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/python -m ruff format --quiet --check --diff .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv .venv-anomalib tests/page-tools/node_modules build dist demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: touched only after the step has succeeded, so a failed installation is tried again.
.venv/.made:
	@echo "Making the environment .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.core: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing advrad"
	@$(BIN)/python $(PIP_INSTALL) $(TORCH) -e ".[serve]"
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing advrad with what its tests need"
	@$(BIN)/python $(PIP_INSTALL) $(TORCH) -e ".[test]"
	@touch $@ .venv/.core

.venv-anomalib/.made: pyproject.toml constraints.txt
	@echo "Installing advrad with anomalib in .venv-anomalib (5 GB; minutes)"
	@$(PYTHON) -m venv .venv-anomalib
	@.venv-anomalib/bin/python $(PIP_INSTALL) $(TORCH_PAIR) -e ".[test-anomalib]"
	@touch $@

tests/page-tools/node_modules/.made: tests/page-tools/package.json tests/page-tools/package-lock.json
	@echo "Installing the tools that look at the page"
	@npm ci --prefix tests/page-tools --no-audit --no-fund --loglevel error
	@touch $@
