# Paceline. Needs Python 3.11+ and make; everything else is installed into .venv from requirements.lock.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    := out

DEMO_SPEED ?= 4

# Processes that run tests side by side. Those on an API server wait most of the time; each process has a server of its own (1.2 GB).
TEST_WORKERS ?= auto
KUBE_WORKERS ?= 3
SIDE_BY_SIDE := --dist loadfile -n

# Where an environment forbids it, each of hundreds of processes would compile what it imports anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
demo: $(STAMP) ## Serve a deployment on emulated engines while its load shifts; the planner answers and explains; ends with an SLO report
	@mkdir -p $(OUT)/demo
	$(BIN)/paceline up manifests/samples/elastic.yaml --once --speed $(DEMO_SPEED) --load shift --load-minutes 4 \
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
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(TEST_WORKERS) -m "not kube and not vllm and not programs and not bench and not chaos"

.PHONY: test-chaos
test-chaos: $(STAMP) ## Break engines, routers, network and machine under streams whose right text is known (4 minutes)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) 2 -m chaos tests/chaos

.PHONY: test-programs
test-programs: programs ## Run the suite that needs helm, Prometheus, hadolint and a browser
	$(BIN)/python -m pytest -m programs tests/helm tests/images tests/observability

.PHONY: programs
programs: $(STAMP) ## Find or fetch those programs (Chromium: as root, from Debian's packages)
	$(BIN)/python -m tests.programs helm promtool prometheus hadolint chromium

.PHONY: test-kube
test-kube: $(STAMP) ## Run the suite against a real Kubernetes API server
	$(BIN)/python -m pytest --dist worksteal -n $(KUBE_WORKERS) -m kube tests/kube

.PHONY: e2e-kind
e2e-kind: ## The whole of it in a kind cluster: build, install, serve, ask, tear down (needs docker, kind, kubectl)
	bash manifests/kind/e2e

.PHONY: test-vllm
test-vllm: .venv-vllm/.installed ## Run the suite against real vLLM engines on CPU
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm

.venv-vllm/.installed: tests/vllm/requirements.txt tests/vllm/install pyproject.toml
	PYTHON=$(PYTHON) bash tests/vllm/install

.PHONY: verify
verify: $(STAMP) lint types generate audit ## Lint, type-check, regenerate and fail on any difference, audit dependencies
	@git diff --exit-code -- crds helm manifests docs/reference || { echo "Generated files differ from what is committed: commit the result of 'make generate'." >&2; exit 1; }

.PHONY: audit
audit: $(STAMP) $(OUT)/audit-venv/.installed ## Known vulnerabilities of the pinned dependencies, with pip-audit in a venv of its own
	$(BIN)/python -m tests.audit $(OUT)/audit-venv/bin/pip-audit

$(OUT)/audit-venv/.installed:
	@$(PYTHON) -m venv $(OUT)/audit-venv
	@$(OUT)/audit-venv/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	@touch $@

.PHONY: generate
generate: $(STAMP) ## Regenerate everything that is made from code; needs helm
	$(BIN)/python -m paceline.api.crd > crds/paceline.dev_modeldeployments.yaml
	cp crds/paceline.dev_modeldeployments.yaml helm/paceline/files/modeldeployments.yaml
	$(BIN)/python -m paceline.policy.resources.install > helm/paceline/files/rights.yaml
	$(BIN)/python -m paceline.observability
	$(BIN)/python -m tests.docs.reference
	$(BIN)/python -m paceline.cli.reference > docs/reference/cli.md
	$(BIN)/python manifests/images/make.py
	$(BIN)/python -m tests.helm.charts > manifests/install.yaml

.PHONY: docs
docs: $(OUT)/docs-venv/.installed ## Build the documentation as a site into out/site, with mkdocs in a venv of its own
	NO_MKDOCS_2_WARNING=1 $(OUT)/docs-venv/bin/mkdocs build --strict --quiet -f docs/mkdocs/mkdocs.yml

$(OUT)/docs-venv/.installed: docs/mkdocs/requirements.txt
	$(PYTHON) -m venv $(OUT)/docs-venv
	$(OUT)/docs-venv/bin/python -m pip install --quiet --disable-pip-version-check -r docs/mkdocs/requirements.txt
	@touch $@

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
bench: bench-router bench-simulator bench-scaling bench-planner bench-operator ## Every benchmark, one after the other (hours)

.PHONY: bench-router
bench-router: $(STAMP) ## The router: beside its peers (installed into out/bench-venv), its index, its tokens, what they are worth
	$(BIN)/python -m tests.bench.bench_router --out $(OUT)/bench
	$(BIN)/python -m tests.bench.bench_index
	$(BIN)/python -m tests.bench.bench_tokens --out $(OUT)/bench
	$(BIN)/python -m tests.bench.bench_effect --engines 8 --minutes 10
	$(BIN)/python -m tests.bench.bench_effect --engines 32 --minutes 5
	$(BIN)/python -m tests.bench.bench_effect --trace agents --engines 8 --minutes 3
	$(BIN)/python -m tests.bench.bench_effect_http
	[ ! -f .venv-vllm/.installed ] || .venv-vllm/bin/python -m tests.bench.bench_effect_vllm

.PHONY: bench-simulator
bench-simulator: $(STAMP) ## The simulator: its speed, and how far it agrees with engines over HTTP
	$(BIN)/python -m tests.bench.bench_simulator --large
	$(BIN)/python -m tests.bench.agreement --prefill 5

.PHONY: bench-scaling
bench-scaling: $(STAMP) ## The planner against the best static fleet, an oracle and other autoscalers; the performance model
	$(BIN)/python -m tests.bench.gates
	$(BIN)/python -m tests.bench.sweep
	$(BIN)/python -m tests.bench.perfmodel_report --write docs/reference/perfmodel.md

.PHONY: bench-operator
bench-operator: $(STAMP) ## The operator with many deployments on a real API server
	$(BIN)/python -m tests.bench.bench_operator

.PHONY: bench-planner
bench-planner: $(STAMP) ## Role changes under load, and whether the live planner decides as the simulated one
	$(BIN)/python -m tests.bench.flips
	$(BIN)/python -m tests.bench.agreement_targets

FUZZ_INPUTS ?= 50000
FUZZ_SEED   ?= 0

.PHONY: fuzz
fuzz: $(STAMP) ## Random inputs to everything that takes in what comes from outside; FUZZ_INPUTS=1000000 is the long form
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) --seed $(FUZZ_SEED)

.PHONY: soak
soak: $(STAMP) ## Half an hour of events, restarts and churn: flat memory, and an index equal to what engines hold
	$(BIN)/python -m tests.bench.soak_index --minutes 30

.PHONY: lock
lock: $(STAMP) ## Compile requirements.lock anew (needs uv)
	uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -o requirements.lock

.PHONY: clean
clean: ## Remove everything that make created
	rm -rf $(VENV) .venv-vllm $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
