# Two commands from a fresh clone: `make demo` runs the main job, `make test` passes the tests.
# Both make their own environment in .venv and need nothing but Python 3.11 and the package index.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test fast nightly explore fuzz arm lint clean

demo: $(VENV)/.ready
	$(BIN)/edgekit demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20

# What needs no real export: the tests to run while writing.
fast: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not nightly"

# What `make test` leaves out: more of the same kind, as the product of architectures and tasks.
nightly: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=20 -m nightly

# Property tests on random examples, many more than the same few of every other run. What fails becomes an @example.
explore: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --hypothesis-profile explore -m hypothesis

# The fuzz tests of tests/faults, and flipped bits, with their full number of cases.
fuzz: $(VENV)/.ready
	EDGEKIT_FUZZ=1 $(BIN)/python -m pytest -n 2 tests/faults tests/bundle -k "fuzz or flipped"

# The zoo on emulated Arm cores. Needs QEMU and a Debian of arm64, which it installs as root from Debian's index.
arm: $(VENV)/.ready
	$(BIN)/python tests/arm/walk.py --folder .arm

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and by itself: a CPU build where one is at hand, and never several GB of CUDA packages by accident.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --group dev -e '.[export,openvino,vision]'
	touch $@

clean:
	rm -rf $(VENV) build dist edgekit-demo
