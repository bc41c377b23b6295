# make bench SUITE=flows   trains, measures and ranks;   make help   lists the rest
SHELL := /bin/bash
PYTHON ?= python3
SUITE ?= smoke
EMBEDDED ?= flows flows-toys flows-photos vaes autoregressive gans gans-critic-first digits autoencoders contrastive labelled vaes-ais
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
BASE ?= HEAD
HERE := PYTHONPATH=kernels $(or $(wildcard $(RUN)),$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help setup bench test lint report publish peers kernels gpu-check kernels-compare

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{printf "make %-16s %s\n", $$1, $$2}'
	@echo 'make bench SUITE=flows ARGS="--only '"'RealNVP*'"' --seeds 0-4"   passes further arguments'

setup: $(READY) ## make .venv with the exact versions of requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "genbench needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); use make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up $(VENV) (once, about two minutes) ..."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test,lint]'
	@touch $@

bench: $(READY) ## train, measure and rank a suite: SUITE=flows, ARGS="..."
	@$(RUN) -m genbench run "$(SUITE)" $(ARGS)

report: $(READY) ## write tables, plots and page from the records under runs/
	@$(RUN) -m genbench report $(ARGS)

publish: $(READY) ## run every embedded suite into results/, which is committed; 45 minutes on two new cores
	@for suite in $(EMBEDDED); do $(RUN) -m genbench run $$suite --results results $(ARGS) || test $$? = 1 || exit 1; done # 1: a run failed
	@$(RUN) -m genbench report --results results --plots 200 > /dev/null

test: $(READY) ## run every test; at most 8 minutes on two cores
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

peers: $(READY) ## compare training speed with zuko, normflows and pythae; writes results/peers/*-speed.json
	@$(RUN) -W ignore -m peers.flows_speed results/peers/flows-speed.json
	@$(RUN) -W ignore -m peers.vaes_speed results/peers/vaes-speed.json

kernels: $(READY) ## compile every kernel for four GPUs, none needed, and check registers and spills against kernels/budgets
	@$(RUN) -m genbench_kernels.static $(ARGS)

gpu-check: ## check values, then speed of the kernels on this GPU, 10 minutes; REQUIRE_GPU=1 fails without one
	@$(HERE) -m bench $(ARGS)

kernels-compare: ## fail if a kernel is slower than at BASE=<git rev>, interleaved on this GPU
	@$(HERE) -m bench.compare "$(BASE)" $(ARGS)
