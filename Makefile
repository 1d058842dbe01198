# `make demo` runs the whole path on the simulated sample; `make test` runs the tests. Both set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-long check setup lint clean bench constraints

setup: $(STAMP)

# constraints.txt is the exact set. torch goes first and with its own dependencies: some of its builds bring CUDA.
$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/roboscape run demo

# Those that start Ray or Prefect use all cores by themselves, so they run one after the other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -m "not slow" -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -m "slow and not long"

# Deaths and a full disk at more moments than `make test` has the time for: about a quarter of an hour.
test-long: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -m long

# The part of the tests that needs no Ray and no Prefect server, after the linters: before each commit.
check: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pyright -p tests/support/pyright_strict.json
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/overhead.py

# Resolves pyproject.toml again and writes the exact set that every install uses.
constraints:
	rm -rf build/resolve && $(PYTHON) -m venv build/resolve
	build/resolve/bin/python -m pip install -q "torch==2.13.0" setuptools wheel ".[dev]"
	( sed -n '1,/^$$/p' constraints.txt; \
	  build/resolve/bin/python -m pip freeze --all --exclude roboscape --exclude pip | sed 's/+cpu//' ) > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
