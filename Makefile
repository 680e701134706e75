# Each verb does its own set-up: `make demo` and `make test` work on a fresh clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo dist test test-large tour crash load conflict-table golden fuzz lint docs site benchmark oldest audit clean

demo: $(STAMP)
	$(BIN)/bwlab demo $(ARGS)

# Two processes, each for whole files, as fixtures of a file are made once, and in the order of tests/conftest.py;
# PROCESSES=0 runs all in one. Tests that need much memory come before them, beside the lint alone. pytest exits with 5
# where ARGS name none of them.
PROCESSES ?= 2

test: $(STAMP)
	$(MAKE) --jobs=2 lint test-large
	LARGE_TESTS=without $(BIN)/pytest --doctest-modules -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-large: $(STAMP)
	LARGE_TESTS=alone $(BIN)/pytest $(ARGS) || [ $$? = 5 ]

# Kill trainings, or with --of study studies, at random moments: ARGS="--kills 200".
crash: $(STAMP)
	$(BIN)/python -m tests.crash $(ARGS)

# Train for long and see what grows: ARGS="--minutes 15".
load: $(STAMP)
	$(BIN)/python -m tests.training.load $(ARGS)

# The conflict table of two or more files beside that of a second, dense implementation: ARGS="a.safetensors b.safetensors".
conflict-table: $(STAMP)
	$(BIN)/python -m tests.truth.conflict_table $(ARGS)

# Make the golden set of files and results again, and name what has changed.
golden: $(STAMP)
	$(BIN)/python -m tests.golden

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture

docs: $(STAMP)
	$(BIN)/python -m docs.generate

# The documentation as a site, in site/: open site/index.html. ARGS="--site-dir FOLDER" for another folder.
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.train_step $(ARGS)

# ARGS="--minutes 30" for longer; findings are kept in fuzz-findings/. ARGS="--guided all" needs atheris: the extra fuzz.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(ARGS)

# The oldest versions that pyproject.toml allows, and tests with them; see docs/dependencies.md.
OLDEST := $(VENV)-oldest
OLDEST_TESTS ?= tests/blocks tests/inspection tests/merging/test_commands.py tests/test_terminal.py tests/test_emoji_base.py

oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) -m docs.dependencies > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -c $(OLDEST)/constraints.txt torch torchvision -e '.[dev]' -e plugins/bwlab_emoji -e plugins/bwlab_lycoris -e plugins/bwlab_ui
	$(OLDEST)/bin/python -m pip check
	$(OLDEST)/bin/bwlab --help
	$(OLDEST)/bin/python -m pytest -p no:cacheprovider $(OLDEST_TESTS) $(ARGS)

# Known flaws of what is installed; pip-audit asks an index of advisories over the network.
audit: $(STAMP)
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

# The sdist and the wheel of every distribution, the same bytes wherever they are built from one commit.
DISTRIBUTIONS := . $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

dist:
	rm -rf dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet build
	for source in $(DISTRIBUTIONS); do \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)-dist/bin/python -m build --outdir dist $$source || exit 1; \
	done

# Run docs/tour.ipynb and keep its output in it.
tour: $(STAMP)
	$(BIN)/python -m docs.tour

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-dist build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch and torchvision are named beside the project so that pip solves all of them at once, whatever index it uses.
# Python compiles a module when it is first imported, and keeps the result; compiling all that PyTorch and others bring
# takes a minute.
unexport PYTHONDONTWRITEBYTECODE
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bwlab needs Python 3.11 or newer: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@.ci/quietly $(VENV)/install.log "Installing PyTorch, bwlab and what they need" \
		$(BIN)/python -m pip install --no-compile torch torchvision \
		-e '.[dev]' -e plugins/bwlab_emoji -e plugins/bwlab_lycoris -e plugins/bwlab_ui
	@touch $@
