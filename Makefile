# crosssuck: two commands on a fresh machine.
#   make demo    install in .venv, run the whole way on a simulated cohort, print the path of the lab report
#   make test    everything that CI runs
# Others: make check (the long tier), make lab (JupyterLab), make nbs (re-run and export the notebooks), make readme, make clean-demo
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

OK = import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3 python,$(shell $(p) -c '$(OK)' >/dev/null 2>&1 && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check install lab nbs readme drift ruff nbtest pytest clean-demo

help:
	@sed -n '2,5p' Makefile | cut -c3-

# ---- installation -------------------------------------------------------------------------------------------------
install: $(INSTALLED)

$(INSTALLED): setup.py settings.ini constraints.txt
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(OK)' 2>/dev/null || { echo "crosssuck needs Python 3.11 or 3.12: install one, or name it with  make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python has no venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@[ -x $(BIN)/python ] && $(BIN)/python -c '$(OK)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV): about 8 GB and 4 minutes the first time"
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

# ---- the demo -----------------------------------------------------------------------------------------------------
include demo.mk

# ---- tests --------------------------------------------------------------------------------------------------------
test: drift ruff nbtest pytest

drift: $(INSTALLED)
	@.ci/drift

ruff: $(INSTALLED)
	$(BIN)/ruff check setup.py tests benchmarks
	$(BIN)/ruff check --isolated --select F crosssuck

nbtest: $(INSTALLED)
	$(BIN)/nbdev_test --n_workers 2 --timing

pytest: $(INSTALLED)
	$(BIN)/python -m pytest -m "not long and not gpu" --durations=8

check: $(INSTALLED)
	$(BIN)/python -m pytest -m "long" --durations=0 -s

# ---- working on it ------------------------------------------------------------------------------------------------
lab: $(INSTALLED)
	$(BIN)/jupyter lab --ip=127.0.0.1 $$([ "$$(id -u)" = 0 ] && echo --allow-root) --LabApp.default_url=/lab/tree/nbs/index.ipynb

nbs: $(INSTALLED)
	IN_TEST=1 $(BIN)/python .ci/execute.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(MAKE) readme

readme: $(INSTALLED)
	@.ci/readme > README.md.part && mv README.md.part README.md
