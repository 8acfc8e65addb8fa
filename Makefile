# `make help` lists the targets. Everything runs from .venv, which `make venv` makes once.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := worker,ucx,test

.DEFAULT_GOAL := help
.PHONY: help venv serve test lint types pytest format bench-engine bench-ep bench-gpu bench-guesses bench-handover bench-kvtransfer bench-proxy bench-routing compiled uncompiled constraints clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/\1\t\2/' | expand -t 20

venv: $(STAMP)  ## make .venv with the pinned dependencies; instant the second time

$(STAMP): pyproject.toml constraints.txt tools/make_venv.sh
	bash tools/make_venv.sh $(VENV) $(EXTRAS)
	@touch $(STAMP)

compiled: venv  ## compile the proxy's hot modules in place: less CPU a request; needs a C compiler, a minute
	$(BIN)/python -P tools/compile_proxy.py

uncompiled: venv  ## take the compiled modules away
	$(BIN)/python -P tools/compile_proxy.py --remove

serve: venv  ## proxy + prefill + decode on the demo model; ARGS="--decode 2" adds flags of `baton up`
	$(BIN)/baton up $(ARGS)

test: lint types pytest  ## lint, types and the whole test suite

lint: venv  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy, strict, over the whole package
	$(BIN)/mypy

pytest: venv  ## the test suite alone, a file at a time on each core; ARGS="tests/proxy -x" narrows it
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

format: venv  ## rewrite the sources as ruff would have them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-engine: venv  ## the engine beside vLLM's CPU build, both checkpoints; ARGS="--quick" for one round
	$(BIN)/python -P -m baton.bench.engine $(ARGS)

bench-ep: venv  ## dispatch and combine beside bare collectives, and what overlapping two halves of a step saves
	$(BIN)/python -P -m baton.bench.ep $(ARGS)

bench-guesses: venv  ## the demo model with and without guessing ahead; ARGS="--tokens 1 2 3" for chains of several
	$(BIN)/python -P -m baton.bench.guesses $(ARGS)

bench-handover: venv  ## hand-over time, decode and prefill speed over real NIXL; exit status: target held
	$(BIN)/python -P -m baton.bench.handover $(ARGS)

bench-kvtransfer: venv  ## pull of KV blocks beside a bare NIXL READ loop of the same sizes
	$(BIN)/python -P -m baton.bench.kvtransfer $(ARGS)

bench-proxy: venv  ## the proxy beside vllm-router and sglang-router; ARGS="--quick" for one short round
	$(BIN)/python -P -m baton.bench.proxy $(ARGS)

bench-routing: venv  ## a routing decision at 10, 100 and 1,000 workers
	$(BIN)/python -P -m baton.bench.routing $(ARGS)

# A machine with a GPU may have torch and triton of its own: PYTHON=python3 takes those instead of .venv.
bench-gpu:  ## kernels beside this GPU's limits, one GPU's share of DeepSeek-R1; ARGS=--dry without a GPU
	PYTHONPATH=.typing $(or $(PYTHON),$(firstword $(wildcard $(BIN)/python) python3)) -P -m baton.bench.gpu $(ARGS)

constraints: venv  ## pin what .venv holds now into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/pip freeze --all --exclude-editable | grep -Ev '^(#|pip==)' | sed 's/+cpu$$//' | sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove .venv and every cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find proxy -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
