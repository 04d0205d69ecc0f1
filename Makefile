# `make demo` and `make test` set up all they need: Python 3.11 or newer, pip and make suffice.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,all
BIN := $(VENV)/bin
# Tests spend some of their time waiting for processes and disks. Those of one file share what they
# have prepared, so they stay together.
JOBS ?= 3
# Many containers forbid .pyc files: then each of the programs that are run here compiles all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format chaos mutations bench bench-smoke bench-full wheel clean help

help:
	@echo "make demo       parse the standard library, as jobs of two worker processes"
	@echo "make test       run the tests, with a small part of each suite of faults"
	@echo "make check      lint, format, types, layers, spelling"
	@echo "make chaos      kills, power cuts, full disks, races, in full; QUEUE_MAX_TEST_SEED repeats"
	@echo "make mutations  take out one guard after the other, see that a test notices; WORDS chooses"
	@echo "make bench      measure this checkout beside its peers; BENCH=... are arguments, see bench/"
	@echo "make bench-smoke, make bench-full   the same on a few jobs; with the long scenarios, too"
	@echo "make format     bring the code into shape"
	@echo "make wheel      build sdist and wheel into dist/"
	@echo "make clean      remove what the others made"

# The stamp is as new as what was installed; a change of pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python examples/stdlib_census.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# 20 rounds are the full figures; the seed is printed, and so is what was found.
chaos: $(VENV)/.installed
	QUEUE_MAX_TEST_ROUNDS=$${QUEUE_MAX_TEST_ROUNDS:-20} $(BIN)/python -m pytest -m chaos tests/chaos tests/model tests/storage tests/repositories

# Works on a copy. WORDS="dead letter" takes only the mutations with both words in their names.
mutations: $(VENV)/.installed
	@$(BIN)/python tests/mutations/table.py $(WORDS)

# The suite needs the standard library only; it makes an environment for each contender.
bench:
	$(PYTHON) -m bench $(BENCH)

bench-smoke:
	$(PYTHON) -m bench --scale 0.01 --rounds 1 --timeout 120 $(BENCH)

bench-full:
	$(PYTHON) -m bench --full --timeout 14400 $(BENCH)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

wheel: $(VENV)/.installed
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .venv-* .bench-* .demo dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
