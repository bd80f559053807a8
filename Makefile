# Thin targets: the README shows the plain commands. The first call sets up .venv, later calls find it there.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
# Not exported: a renewed set-up must find the PYTHON outside.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: train test quick lint docs

train: $(STAMP)
	$(IN_VENV) mpirun -np 2 python examples/train_resnet50.py $(ARGS)

test: $(STAMP)
	$(IN_VENV) python -m pytest $(ARGS)

quick: $(STAMP)
	$(IN_VENV) python -m pytest -m "not mpirun and not slow" $(ARGS)

lint: $(STAMP)
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy

docs: $(STAMP)
	$(IN_VENV) sphinx-build --fail-on-warning --keep-going --quiet docs build/site
	$(IN_VENV) python docs/check.py
	$(IN_VENV) python docs/first_hour.py --check

# Touched last, so an interrupted set-up is taken up again; renewed when what it installs changes.
$(STAMP): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) python -m pip install -c constraints.txt -e ".[mpich,test,lint,docs]"
	touch $@
