# Every check is one command. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= data
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help run test check lint-manifests format bench bench-stack lock docs stack stack-down stack-status
.PHONY: kubernetes nodes nodes-up clean

help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.platform ## Install what is needed and start the platform with demo users.
	@$(BIN)/chatcluster dev --data $(DATA) $(ARGS)

test: $(VENV)/.dev ## Install what is needed and run all tests.
	@scripts/browser.sh
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev ## Format, lint, types, layers, generated files.
	@echo "== format"; $(BIN)/ruff format --check .
	@echo "== lint";   $(BIN)/ruff check .
	@echo "== types";  $(BIN)/mypy
	@echo "== layers"; $(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@echo "== generated files"; $(BIN)/python scripts/generate.py --check

lint-manifests: $(VENV)/.dev ## The field's linters over charts, manifests and what the operator renders; those that are built.
	@$(BIN)/python scripts/lint_manifests.py

format: $(VENV)/.dev ## Format the code and mend what the linter can.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.platform ## Measure the embedded platform beside its limits.
	@$(BIN)/chatcluster bench all $(ARGS)

bench-stack: $(VENV)/.platform ## Measure the distributed platform on this machine: ARGS="direct --json FILE".
	@PYTHONPATH=stack $(BIN)/python -m chatcluster_stack --name bench down --wipe >/dev/null 2>&1 || true
	@PYTHONPATH=stack $(BIN)/python -m chatcluster_stack --name bench up --unlimited --port 24000
	@$(BIN)/chatcluster bench $(or $(ARGS),direct) --platform $${CHATCLUSTER_CACHE:-$$HOME/.cache/chatcluster}/run/bench/platform/bench.json; \
	status=$$?; PYTHONPATH=stack $(BIN)/python -m chatcluster_stack --name bench down --wipe >/dev/null; exit $$status

docs: $(VENV)/.dev ## Generate schema, server API and settings reference anew.
	@$(BIN)/python scripts/generate.py

lock: $(VENV)/.dev ## Resolve the dependencies anew into requirements/*.txt, with hashes.
	@scripts/lock.sh $(BIN)

stack: $(VENV)/.platform ## The distributed platform on this machine, on real servers (docs/stack.md).
	@PYTHONPATH=stack $(BIN)/python -m chatcluster_stack up $(ARGS)

stack-down: $(VENV)/.platform ## End it.
	@PYTHONPATH=stack $(BIN)/python -m chatcluster_stack down $(ARGS)

stack-status: $(VENV)/.platform ## Show what of it runs.
	@PYTHONPATH=stack $(BIN)/python -m chatcluster_stack status $(ARGS)

kubernetes: ## Build a Kubernetes control plane for the operator's tests, into the cache (needs Go; minutes).
	@scripts/kubernetes.sh kwok

nodes: $(VENV)/.dev ## Prepare real nodes for tests/kubernetes/nodes (root on Debian, Go; minutes).
	@scripts/nodes.sh $(BIN)/python

nodes-up: $(VENV)/.dev ## A Kubernetes with real nodes in a network of its own, until Ctrl-C: ARGS="--nodes 2".
	@PYTHONPATH=operator $(BIN)/python tests/support/nodes.py $(ARGS)

clean: ## Remove what the other commands made, but no data.
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.platform: requirements/platform.txt pyproject.toml
	@scripts/install.sh "$(PYTHON)" $(VENV) platform

$(VENV)/.dev: requirements/dev.txt requirements/platform.txt pyproject.toml
	@scripts/install.sh "$(PYTHON)" $(VENV) dev
