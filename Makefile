# make demo   set everything up and compile, check and fly the published RAPTOR policy
# make test   set everything up and run the test suite
# make bench  measure edgerl beside its peers (minutes); results go to benchmarks/results/

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test lint bench clean

demo: $(VENV)/.demo
	$(BIN)/edgerl compile raptor --target crazyflie21 --check

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.table

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit('edgerl needs Python 3.11 or newer') if sys.version_info < (3, 11) else 0"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[emu,raptor]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[emu,raptor,import,dev]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[emu,raptor,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist
