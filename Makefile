# Every target makes and fills .venv by itself. `make PYTHON=python3.12 install` takes another Python.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
ZENSICAL := $(BIN)/zensical build --clean --strict
PYTEST := $(BIN)/pytest -n auto --dist worksteal

# Where it is set, as in many containers, each process would compile torch's modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Runs checks and tests side by side: prints what the checks print when they are done, ends with
# pytest's line, and fails if either fails.
define with_checks
	@(found=$$($(MAKE) -s check 2>&1); failed=$$?; printf '\n%s\n' "$$found"; exit $$failed) & \
	checks=$$!; $(1); failed=$$?; wait $$checks || { echo "make check has failed, see above"; exit 1; }; \
	exit $$failed
endef

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## fill .venv with nas, its dependencies and the tools of its tests

demo: $(INSTALLED)  ## the whole pipeline on embedded data
	@$(BIN)/nas demo

test: $(INSTALLED)  ## check, and the quick tests
	$(call with_checks,$(PYTEST))

test-all: $(INSTALLED)  ## check, and all tests, with the runtimes that are extras
	@$(BIN)/pip install -q -c constraints.txt -e ".[mnn,openvino]"
	$(call with_checks,$(PYTEST) -m "")

docs: $(INSTALLED)  ## the documentation as pages: site/index.html
	@$(ZENSICAL)
	@echo "site/index.html"

check: $(INSTALLED)  ## format, lint, types, layers and the documentation's links
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(ZENSICAL)

# pip before 25.1 lacks --group. Compiling all modules takes longer than what is imported needs.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Filling .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt --editable . --group dev
	@touch $@
