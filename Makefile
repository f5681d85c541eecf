# make demo   the main job on an embedded clip
# make test   lint, types and tests
# make bench  the figures of benchmarks/NOTES.md (needs the clips and networks of SKIPFX_DATA; an hour)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench clean

demo: $(VENV)/.installed
	$(BIN)/skipfx demo -o demo.png --overwrite

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist worksteal

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.realised
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.super_resolution

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skipfx needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[video,bench,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo.png
