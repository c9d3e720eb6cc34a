# Paceline. Needs Python 3.11+ and make; everything else is installed into .venv from requirements.lock.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    := out

DATA       ?= $(or $(PACELINE_DATA),../shared/data)
TRACE      := $(DATA)/traces/mooncake_conversation_trace.jsonl.gz
# A minute of the real trace at a rate that two prefill engines hold, else a generated load of the same shape.
DEMO_LOAD  := $(if $(wildcard $(TRACE)),mooncake:$(TRACE) --spread-ticks,conversation)
DEMO_SPEED ?= 6

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## Create .venv with everything but torch and vLLM

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Paceline needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Serve the quickstart on emulated engines, under load, and report the SLO
	@mkdir -p $(OUT)/demo
	$(BIN)/paceline up manifests/samples/quickstart.yaml --once --speed $(DEMO_SPEED) \
	  --load $(DEMO_LOAD) --load-minutes 1 --rate-scale 0.3 \
	  --run-dir $(OUT)/demo/run --report $(OUT)/demo/report.json --plot $(OUT)/demo/slo.png

.PHONY: demo-vllm
demo-vllm: .venv-vllm/.installed ## The same with two real vLLM engines on CPU and a tiny model
	@mkdir -p $(OUT)/demo-vllm
	.venv-vllm/bin/python -m tests.vllm.tiny_model $(OUT)/demo-vllm/model
	.venv-vllm/bin/paceline up manifests/samples/cpu.yaml --once --engine vllm --model-path $(OUT)/demo-vllm/model \
	  --load conversation --load-minutes 1 \
	  --run-dir $(OUT)/demo-vllm/run --report $(OUT)/demo-vllm/report.json --plot $(OUT)/demo-vllm/slo.png

.PHONY: test
test: $(STAMP) ## Run the default test suite
	$(BIN)/python -m pytest -m "not kube and not vllm and not bench"

.PHONY: test-kube
test-kube: $(STAMP) ## Run the suite against a real Kubernetes API server
	$(BIN)/python -m pytest -m kube tests/kube

.PHONY: test-vllm
test-vllm: .venv-vllm/.installed ## Run the suite against real vLLM engines on CPU
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm

.venv-vllm/.installed: tests/vllm/requirements.txt tests/vllm/install
	PYTHON=$(PYTHON) bash tests/vllm/install

.PHONY: verify
verify: $(STAMP) lint types generate ## Lint, type-check, regenerate, and fail on any difference
	@git diff --exit-code -- crds || { echo "Generated files differ from what is committed: commit the result of 'make generate'." >&2; exit 1; }

.PHONY: generate
generate: $(STAMP) ## Regenerate everything that is made from code
	$(BIN)/python -m paceline.api.crd > crds/paceline.dev_modeldeployments.yaml

.PHONY: lint
lint: $(STAMP) ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

.PHONY: format
format: $(STAMP) ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## Measure the router side by side with a peer (installs it into out/bench-venv)
	$(BIN)/python -m tests.bench.bench_router --out $(OUT)/bench

.PHONY: lock
lock: $(STAMP) ## Compile requirements.lock anew (needs uv)
	uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -o requirements.lock

.PHONY: clean
clean: ## Remove everything that make created
	rm -rf $(VENV) .venv-vllm $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
