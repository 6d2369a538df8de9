# Two commands from a fresh clone: `make demo` runs the main job, `make test` passes the tests.
# Both make their own environment in .venv and need nothing but Python 3.11 and the package index.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test fast lint clean

demo: $(VENV)/.ready
	$(BIN)/edgekit demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2

fast: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and by itself: a CPU build where one is at hand, and never several GB of CUDA packages by accident.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[export,openvino,vision,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist edgekit-demo
