# `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# The API as last published. A committed file, because a shallow clone has no history to compare with.
BASELINE := tools/api.binpb
PYTEST_ARGS ?=
export PYTHONDONTWRITEBYTECODE := 1
# Tests fork; what gRPC does around a fork starts threads and opens descriptors in parent and child.
export GRPC_ENABLE_FORK_SUPPORT := 0

.PHONY: help setup generate baseline format check test cri soak clients readme demo bench dist clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  %-10s %s\n", $$1, $$2 }'

setup: $(STAMP) ## install the Debian packages and the virtual environment (nothing to do the second time)

$(STAMP): pyproject.toml tools/packages.txt tools/setup.sh
	tools/setup.sh $(VENV)

generate: $(STAMP) ## generate the Python code of the .proto files
	tools/generate.sh

baseline: $(STAMP) ## publish the API as it is: from then on `make check` refuses what breaks it
	$(BIN)/buf build --exclude-source-info -o $(BASELINE)

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

check: $(STAMP) ## lint, format, types, API rules, drift of generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p moorage.server -p moorage.client
	$(BIN)/mypy --exclude '^tools/importroot/' tools tests
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(BASELINE)
	tools/drift.sh

# In processes of their own: kernel tests fork, which gRPC channels left open by other tests do not survive.
test: $(STAMP) ## run the unit, contract, api and kernel tests (as root)
	$(BIN)/pytest -n 2 tests/contract tests/unit tests/api $(PYTEST_ARGS)
	$(BIN)/pytest tests/kernel $(PYTEST_ARGS)

cri: $(STAMP) ## run the tests of the CRI over a real daemon (as root)
	$(BIN)/pytest tests/cri $(PYTEST_ARGS)

soak: $(STAMP) ## run the long tests: crashes at random moments, 200 cycles of run and remove, minutes of probes, 500 pods
	$(BIN)/pytest -m "soak or slow" tests $(PYTEST_ARGS)

clients: $(STAMP) ## build clients in Go and Node, and run containers and pods with them (as root; needs go, node and npm)
	$(BIN)/pytest -m clients tests/clients $(PYTEST_ARGS)

readme: $(STAMP) ## run the commands that README.md and docs/kubernetes.md show
	$(BIN)/python -m tools.readme

demo: $(STAMP) ## pull, run, serve, survive a SIGKILL, stop, remove; nothing is left behind
	$(BIN)/python -m tools.demo

bench: export PYTHONDONTWRITEBYTECODE :=
bench: $(STAMP) ## measure Moorage beside Debian's containerd + runc (BENCH_ARGS=--quick for a short run)
	$(BIN)/python -m tools.bench $(BENCH_ARGS)

dist: $(STAMP) ## build the wheel and the sdist, and check what they would install
	rm -rf dist
	$(BIN)/python -m pip install -q build
	$(BIN)/python -m build -q --outdir dist .
	$(BIN)/python -m tools.wheelcheck dist

clean: ## remove the virtual environment, caches and build output
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .state
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
