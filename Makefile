# make train [ARGS="method=mochi data=cifar10"]   installs into .venv on the first call, then runs train.py
# make test                                       the same environment, then tests, lint and types
# make docs                                       the site, in build/docs/index.html
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

LINT := $(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

.PHONY: train test lint docs clean

train: $(INSTALLED)
	$(RUN) train.py $(ARGS)

# The types are checked beside the tests: alone, they would leave a core idle for half a minute. What one process has
# compiled is written down for the others, whatever the shell says of that.
test: $(INSTALLED)
	@{ $(LINT); } & lint=$$!; \
	PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS); tests=$$?; \
	wait $$lint || { echo "make lint fails, see above"; exit 1; }; exit $$tests

lint: $(INSTALLED)
	$(LINT)

docs: $(VENV)/.docs
	$(RUN) -m sphinx -W --keep-going -b html docs build/docs
	@echo build/docs/index.html

$(VENV)/.docs: $(INSTALLED)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[docs]" -c constraints.txt
	@touch $@

# Reinstalls only when the requirements change.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
