# Two commands: `make quickstart` runs the main job, `make test` passes the tests. Each sets up what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# torch first: with it there, nothing else pulls another build of it in.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[umap,hub,dev]'
	touch $@

.PHONY: install quickstart test check clean
install: $(VENV)/.installed

quickstart: install
	$(BIN)/geomrl quickstart --out runs/quickstart

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
