# Each verb does its own set-up: `make demo` and `make test` work on a fresh clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test crash lint docs benchmark clean

demo: $(STAMP)
	$(BIN)/bwlab demo $(ARGS)

# Two processes, each for whole files, as fixtures of a file are made once, and in the order of tests/conftest.py;
# PROCESSES=0 runs all in one. Tests that need much memory come after them, by themselves. pytest exits with 5 where ARGS
# name none of them.
PROCESSES ?= 2

test: lint
	LARGE_TESTS=without $(BIN)/pytest --doctest-modules -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)
	LARGE_TESTS=alone $(BIN)/pytest $(ARGS) || [ $$? = 5 ]

# Kill trainings, or with --of study studies, at random moments: ARGS="--kills 200".
crash: $(STAMP)
	$(BIN)/python -m tests.crash $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture

docs: $(STAMP)
	$(BIN)/python -m docs.generate

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.train_step $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch and torchvision are named beside the project so that pip solves all of them at once, whatever index it uses.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bwlab needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch torchvision -e '.[dev]' -e plugins/bwlab_emoji
	touch $@
