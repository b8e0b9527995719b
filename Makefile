# make train [ARGS="method=mochi data=cifar10"]   installs into .venv on the first call, then runs train.py
# make test                                       the same environment, then lint, types and tests
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: train test lint clean

train: $(INSTALLED)
	$(RUN) train.py $(ARGS)

test: lint
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Reinstalls only when the requirements change.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
