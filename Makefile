# Thin targets: the README shows the plain commands. The first call sets up .venv, later calls find it there.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: train test lint

train: $(STAMP)
	$(VENV)/bin/mpirun -np 2 python examples/train_resnet50.py $(ARGS)

test: $(STAMP)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Touched last, so an interrupted set-up is taken up again; renewed when what it installs changes.
$(STAMP): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[mpich,test,lint]"
	touch $@
