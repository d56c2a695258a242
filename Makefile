# Two commands: `make study` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
CONFIG ?= config/config.yaml
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install study test test-fast test-all lint format schema dvc lock envs clean

help:  ## say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): envs/requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install: $(STAMP)  ## make the environment in .venv

study: $(STAMP)  ## run a study (CONFIG=config/studies/<study>.yaml, CORES=8)
	$(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)

test: lint test-fast  ## run the linters and the tests
	$(BIN)/python -m pytest -q -m "workflow and not slow"

test-all: $(STAMP) lint  ## the same and the slow proofs: a cluster, every study from nothing
	$(BIN)/python -m pytest -q -n $(CORES) -m "not workflow"
	$(BIN)/python -m pytest -q -m workflow

test-fast: $(STAMP)  ## run the tests that take no whole study
	$(BIN)/python -m pytest -q -n $(CORES) -m "not workflow and not slow"

lint: $(STAMP)  ## ruff, mypy, snakefmt and snakemake's linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(STAMP)  ## format Python and Snakemake code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

schema: $(STAMP)  ## write the JSON schema of the study file
	$(BIN)/histostudy schema > workflow/schemas/study.schema.json

dvc: $(STAMP)  ## write dvc.yaml from the studies
	$(BIN)/histostudy dvc > dvc.yaml.new && mv dvc.yaml.new dvc.yaml

lock: $(STAMP)  ## pin the newest versions that fit pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --extra dev --no-header --no-annotate --index-strategy unsafe-best-match \
	  --generate-hashes --python-version 3.11 --upgrade pyproject.toml --output-file envs/requirements.lock
	$(BIN)/histostudy envs

envs: $(STAMP)  ## write the conda environment and the containers from the lock
	$(BIN)/histostudy envs

clean:  ## remove results and logs, not the environment
	rm -rf results logs .snakemake
