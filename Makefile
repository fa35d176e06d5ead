# Each target is one line that calls a program; how it works stands there. Variables: KEEP SEED SEEDS SECONDS ONLY CACHE.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY = .ci/python
export KEEP SEED SEEDS ONLY CACHE

help:         ## show this list
	@grep -E '^[a-z][a-z-]*: *.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16
setup:        ## install what the tools need: apt packages (as root) and the locked Python environment
	@bash .ci/setup
lint: setup   ## ruff and the project's own rules
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) .ci/rules.py
types: setup  ## mypy, strict
	@$(PY) -m mypy
layers: setup ## import-linter: who may import whom
	@$(PY) -c 'from importlinter.cli import lint_imports_command as c; c()'
unit: setup   ## the fast loop: what needs no cluster, network or TVM, and no whole program
	@$(PY) -m pytest -q tests -m "not (tvm or triton or cluster or postgres or vault or fault or fuzz or opinions or bench or slow)"
programs: setup  ## build the cluster's programs and the images, where the cache lacks them (minutes)
	@$(PY) -m e2e.cluster build && $(PY) -m e2e.images >/dev/null && $(PY) -m e2e.vault >/dev/null && $(PY) -m e2e.opinions.gotdx >/dev/null
test: export SEED := $(or $(SEED),1)  # what is drawn is the same each time; `make fuzz` and `make test-faults` draw anew
test: lint types layers programs  ## everything, on the real cluster and the real TVM
	@$(PY) -m pytest tests e2e/tests -m "not (sweep or bench)"
test-faults: setup  ## kill -9 at every named point, then at points of SEED, SEED+1, … (SEEDS many)
	@$(PY) -m pytest e2e/tests -m fault
fuzz: setup   ## fuzz each parser of foreign bytes for SECONDS (600); ONLY=beginning of a target's name
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),600)
crds: setup   ## generate crds/ from the Python models
	@$(PY) -m chrysalis.api.crd crds
docs: setup   ## generate docs/reasons.md, the wire's schemas and the broker's OpenAPI document from the code
	@$(PY) -m chrysalis.cli.reasons_doc docs && $(PY) -m chrysalis.wire.schemas docs/wire && $(PY) -m chrysalis.broker.openapi docs/wire
demo: setup   ## the main job, from a bare machine to Toncoin
	@$(PY) -m e2e.demo
bench: setup  ## measure; ONLY=prefix for some
	@$(PY) -m bench
cluster-up: setup    ## a real two-node Kubernetes in network namespaces
	@$(PY) -m e2e.cluster up
cluster-down:        ## end it and leave nothing behind
	@$(PY) -m e2e.cluster down
cluster-status:      ## what runs, and how to reach it
	@$(PY) -m e2e.cluster status
devnet: setup        ## a local TON network with the real TVM
	@$(PY) -m e2e.devnet
clean:        ## remove what builds left in this folder (caches stay under ~/.cache/chrysalis)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-results.json contracts/node_modules
.PHONY: help setup lint types layers unit programs test test-faults fuzz crds docs demo bench cluster-up cluster-down cluster-status devnet clean
