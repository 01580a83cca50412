# make demo    pictures of common and rare slices, from a bare checkout
# make test    the tests (both make .venv and install what they need)
# make fuzz    spoilt NIfTI and DICOM files for the readers (FUZZ_FILES=10000)
# make check   everything CI checks: lint, types, imports, tests
#
# Python: python3, else python3.13, python3.12, ..., whichever is 3.11 or newer; or say which: make demo PYTHON=python3.12
# Only relative paths are used, so the checkout may lie in a folder with spaces in its name.

VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo_output
FUZZ_FILES ?= 10000
PIP_FLAGS ?=
PYTEST_FLAGS ?=
PYTHON ?=

export PYTHON
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test fuzz lint format types imports check clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# An environment is made once; the two stamps say what is installed in it, and age with the files they depend on.
$(BIN)/python:
	@set -e; found=""; \
	if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python3.14 python; fi; \
	for candidate in "$$@"; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer is needed; tried: $$*." >&2; \
	    echo "Install one, or say where it is: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	rm -rf $(VENV); \
	if ! "$$found" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "Could not make a virtual environment (on Debian and Ubuntu: install the package python3-venv)." >&2; exit 1; \
	fi

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/mri-minority demo --out "$(OUT)"
	@echo; echo "Pictures:"; find "$(OUT)" -name '*.png' | sort | sed 's/^/    /'

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_FLAGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz.readers --files $(FUZZ_FILES)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/python -m mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

check: lint types imports test

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find mri_minority pipelines cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
