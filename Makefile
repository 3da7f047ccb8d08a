# All that a developer or CI does here. Needs git, make and Python 3.11 or newer with venv;
# everything else goes into .venv, and a second run does only what has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
# A .venv that was copied from another directory still points there. The stamps carry a sum of
# this directory's path, so such a copy is made anew.
STAMP := $(VENV)/stamp-$(shell pwd | cksum | cut -d ' ' -f 1)
TYPED := services shared tests $(wildcard examples deploy/*.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-compose check scripts format lock bench screenshots soak mutants clean

help:  ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1:\2/p' Makefile | awk -F: '{ printf "%-20s %s\n", $$1, $$2 }'

run: $(STAMP)-run  ## Start all three services on one port, with their own PostgreSQL
	@exec $(BIN)/python -m services.cli up

test: $(STAMP)-dev  ## Run the tests; ARGS="-k name" goes to pytest
	@deploy/install-test-programs
	@exec $(BIN)/python -m pytest $(ARGS)

test-compose: $(STAMP)-dev  ## Test the stack of compose.yaml in containers, where an engine can be had
	@exec deploy/with-engine $(BIN)/python -m pytest -m compose $(ARGS)

check: $(STAMP)-dev scripts  ## Check format, lint, types and layers
	@echo "Format" && $(BIN)/python -m ruff format --quiet --check . || { echo "Run: make format"; exit 1; }
	@echo "Lint" && $(BIN)/python -m ruff check --quiet .
	@echo "Types" && $(BIN)/python -m mypy --strict --no-error-summary $(TYPED)
	@echo "Layers" && $(BIN)/lint-imports --no-logo

# The pages' scripts are checked where there is npm. In CI nothing may be left out.
scripts:
	@if command -v npm >/dev/null; then \
		$(MAKE) --silent $(TSC) && echo "Scripts" && $(TSC) --project .; \
	elif [ "$$CI" = true ]; then \
		echo "In CI no check may be left out: install node with npm, for the types of the pages' scripts." >&2; exit 1; \
	else \
		echo "Scripts: left out, for there is no npm here"; \
	fi

format: $(STAMP)-dev  ## Format the code and mend what the linter can
	@$(BIN)/python -m ruff check --quiet --fix-only .
	@$(BIN)/python -m ruff format .

lock: $(STAMP)-dev  ## Redo the lock files from pyproject.toml; UPGRADE=1 takes the newest of everything
	@echo "Locking"
	@$(LOCK) --output-file requirements.txt pyproject.toml
	@$(LOCK) --output-file requirements-dev.txt --constraints requirements.txt --group dev pyproject.toml
	@$(LOCK) --output-file requirements-mutants.txt --constraints requirements-dev.txt --group mutants

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

bench: $(STAMP)-dev  ## Measure, and compare with the bars we set ourselves; FULL=1 goes up to ten million events
	@exec $(BIN)/python -m tests.bench $(if $(FULL),--full) $(ARGS)

screenshots: $(STAMP)-dev  ## Take pictures of all pages into build/screenshots; ARGS="scene …" names some
	@deploy/install-test-programs
	@exec $(BIN)/python -m tests.screenshots $(ARGS)

soak: $(STAMP)-dev  ## Keep everything busy and spoil it by chance; SECONDS=600 READERS=2000
	@exec $(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600) --readers $(or $(READERS),2000)

mutants: $(STAMP)-mutants  ## Break the protocol and the channel in every small way; ARGS="shared.protocol.lag"
	@exec $(BIN)/python -m tests.mutants $(ARGS)

clean:  ## Remove .venv and the tools' caches; the data in .tailrace stays
	@rm -rf $(VENV) node_modules build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

TSC := node_modules/.bin/tsc
$(TSC): package.json package-lock.json .npmrc
	@echo "Installing what checks the pages' scripts"
	@npm ci --ignore-scripts --silent
	@touch $@

$(STAMP)-venv:
	@command -v $(firstword $(PYTHON)) >/dev/null || { \
		echo "Tailrace needs Python 3.11 or newer, and there is no $(PYTHON) here. Name yours: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tailrace needs Python 3.11 or newer; this is `$(PYTHON) --version 2>&1`. Name a newer one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "This Python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Making .venv with `$(PYTHON) --version`"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(STAMP)-run: $(STAMP)-venv requirements.txt
	@echo "Installing what Tailrace needs to run"
	@$(PIP) install --require-hashes --requirement requirements.txt
	@touch $@

# Afterwards .venv/bin/tailrace runs the code in this directory.
$(STAMP)-dev: $(STAMP)-run requirements-dev.txt pyproject.toml
	@echo "Installing what the tests and checks need"
	@$(PIP) install --require-hashes --requirement requirements-dev.txt
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

# What only a mutation run needs.
$(STAMP)-mutants: $(STAMP)-dev requirements-mutants.txt
	@echo "Installing what a mutation run needs"
	@$(PIP) install --require-hashes --requirement requirements-mutants.txt
	@touch $@
