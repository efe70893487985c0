# `make` lists the targets. Each sets up .venv by itself first; PYTHON names the interpreter to make it from.
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help .venv demo demo-seeds test test-long test-oldest check fuzz peers cifar10 faults soak clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[.a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(READY) ## create the virtual environment and install lwdc, pinned by constraints.txt

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("$(PYTHON) is Python %d.%d; lwdc needs 3.11 to 3.13: make PYTHON=python3.12 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: $(READY) ## compress a small network on real handwritten digits (minutes); ARGS= takes further settings
	$(BIN)/lwdc compress $(ARGS)

demo-seeds: $(READY) ## the demo with seeds 0, 1 and 2
	$(BIN)/lwdc compress -m seed=0,1,2 $(ARGS)

test: $(READY) ## the tests, without those that take minutes; ARGS= goes to pytest
	$(BIN)/python -m pytest -m 'not long' -n 2 --dist worksteal $(ARGS)

test-long: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m long $(ARGS)

# What an operator, a search, an export and a run rest on; ARGS= names other tests.
OLDEST := tests/test_surgery.py tests/test_selection.py tests/candidates tests/export tests/pipeline/test_compress.py

test-oldest: .venv-oldest/.ready ## tests of the core with the oldest versions that lwdc allows, in .venv-oldest; old versions may warn
	.venv-oldest/bin/python -m pytest -m 'not long' -W default $(or $(ARGS),$(OLDEST))

.venv-oldest/.ready: setup.cfg constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -c constraints-oldest.txt -e '.[test]'
	@touch $@

check: $(READY) ## lint, format, types, import direction
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(READY) ## a million damaged files through every loader (tens of minutes); ARGS="--scale 0.01 wav" for less
	sh experiments/fuzz/setup.sh
	.venv-fuzz/bin/python experiments/fuzz/fuzz.py $(ARGS)

peers: $(READY) ## .venv-peers: the tools that lwdc is compared with, beside .venv
	sh experiments/cifar10/peers.sh

cifar10: $(READY) ## the comparison on CIFAR-10, with what `make peers` made; ARGS="run lwdc --point 4 ..." redoes a row
	.venv-peers/bin/python experiments/cifar10/contend.py $(ARGS)

faults: $(READY) ## kill runs in every phase, 56 times, and compare their ends (minutes); ARGS="--kills 8" for fewer
	$(BIN)/python experiments/faults/faults.py $(ARGS)

soak: $(READY) ## 200 searches and exports in one process: memory and open files (minutes)
	$(BIN)/python experiments/soak/soak.py $(ARGS)

clean: ## remove .venv, .venv-peers, .venv-fuzz, .venv-oldest, caches and build files; outputs/ stays
	rm -rf .venv .venv-peers .venv-fuzz .venv-oldest build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find lwdc conf tests experiments -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
