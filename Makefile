# Everything that one does here, by name. Each target sets up what it needs in .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# From the root, `python -m x` would find our folders as top-level packages: this keeps the root off the path.
export PYTHONSAFEPATH = 1

.PHONY: help train test check bench dev wheel clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

# constraints.txt holds the versions that the tests ran with; torch goes first, so that nothing pulls in another build.
$(VENV)/.base: pyproject.toml constraints.txt __init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@mkdir -p .types && ln -sfn .. .types/mnemic
	@touch $@

train: $(VENV)/.base  ## train an LSTM on the Endless T-Maze until it is solved: about a minute
	$(BIN)/mnemic train endless-tmaze-lstm

dev: $(VENV)/.dev  ## everything for working on mnemic, in .venv

test: $(VENV)/.dev  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --dist worksteal

check: $(VENV)/.dev  ## lint (docker/ too), format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint --config docker/hadolint.yaml docker/*.Dockerfile
	$(BIN)/yamllint --strict --config-file docker/yamllint.yaml docker

bench: $(VENV)/.dev  ## kernels, environments and training, beside other projects
	$(BIN)/mnemic bench kernels
	$(BIN)/mnemic bench envs
	$(BIN)/mnemic bench train --against sb3
	$(BIN)/mnemic bench train --against torchrl

wheel: $(VENV)/.dev  ## build the wheel, install it in a clean environment and test it from outside the checkout
	rm -rf dist build
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	$(PYTHON) -m venv --clear $(VENV)/wheel
	$(VENV)/wheel/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/wheel/bin/pip install --quiet --constraint constraints.txt "$$(ls -d $(CURDIR)/dist/*.whl)[dev]"
	cd dist && ../$(VENV)/wheel/bin/pytest -q --rootdir $(CURDIR) -c $(CURDIR)/pyproject.toml $(CURDIR)/tests/memory/test_rnn.py $(CURDIR)/tests/cli/test_commands.py $(CURDIR)/tests/cli/test_main.py

clean:  ## remove what was built; runs stay
	rm -rf $(VENV) .types build dist *.egg-info
