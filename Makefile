# The two commands are `make quickstart` and `make test`; both set up what they need and can be run again.
# `make help` lists the rest.

PYTHON ?= python3.11
UV_VERSION := 0.13.9
BIN := .venv/bin
PINNED := $(BIN)/uv pip install --quiet --require-hashes --no-deps
# Threads that spin while they wait slow two busy cores down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
# Where this is set, as containers like to, each start of a program compiles torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: cluster cluster-down images test-cluster help setup setup-dev setup-hopper quickstart test test-unit test-api test-chart test-operator test-chaos test-fuzz test-stages test-local test-e2e lint format generate lock \
	bench-quickstart bench-data bench-merge bench-operator bench-gpu bench-gpus clean

help: ## say what each target does
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.venv/uv-$(UV_VERSION):
	@echo "== a virtual environment in .venv"
	@$(PYTHON) -m venv .venv || { echo "no working $(PYTHON) -m venv: apt-get install python3.11 python3.11-venv, or set PYTHON"; exit 1; }
	@$(BIN)/pip install --quiet uv==$(UV_VERSION)
	@touch $@

.venv/local: .venv/uv-$(UV_VERSION) requirements/local.txt pyproject.toml
	@echo "== what a run needs: torch, XTuner, DeepSpeed, lagent, Streamlit (about 3.5 GB to download when new)"
	@$(PINNED) -r requirements/local.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/local requirements/dev.txt tests/debian-packages.txt
	@echo "== what the tests and linters need"
	@$(PINNED) -r requirements/dev.txt
	@tests/install-debian-packages
	@touch $@

setup: .venv/local ## make .venv with everything that a run needs
setup-dev: .venv/dev ## the same, and what tests and linters need

setup-hopper: setup ## the same, and flash-attn-4 for GPUs of the Hopper kind (250 MB)
	@$(PINNED) -r requirements/hopper.txt

quickstart: setup ## train, judge and serve the small example; ends with an open demo
	$(BIN)/finetune run examples/smollm2-react.yaml

test: lint test-unit test-api test-chart test-operator test-stages test-local test-e2e ## every check, the quick ones first

test-unit: setup-dev ## pure code and tiny models, in seconds
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/unit
test-api: setup-dev ## the resource on a real API server (its programs are built once, some 7 minutes)
	$(BIN)/pytest tests/api
test-chart: setup-dev ## the Helm chart: linters, rights, and its life on a real API server (helm is built once, some 4 minutes)
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/chart
test-operator: setup-dev ## the operator on a real control plane: whole lives, hostile cases, kills, rights
	$(BIN)/pytest --numprocesses 3 --dist loadfile tests/operator
test-chaos: setup-dev ## kill the operator between any two of its calls, and at 100 random moments over 20 jobs
	FINETUNE_CHAOS=1 $(BIN)/pytest tests/operator/test_kill.py tests/operator/test_outage.py
test-fuzz: setup-dev ## 10,000 drawn specs: models and API server take and refuse the same; 400 for a running operator
	FINETUNE_FUZZ=10000 $(BIN)/pytest tests/api/test_agreement.py tests/operator/test_fuzz.py
# The long files first: one that is begun last leaves a core idle.
STAGES := $(addprefix tests/stages/,demo train model)
test-stages: setup-dev ## each stage program on real small inputs
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(STAGES) $(filter-out $(STAGES),$(patsubst %/,%,$(sort $(dir $(wildcard tests/stages/*/test_*.py)))))
test-local: setup-dev ## the runner under kill, Ctrl-C and company
	$(BIN)/pytest --numprocesses 2 tests/local
test-cluster: $(if $(KUBE_CONTEXT),.venv/dev,.venv/cluster) ## images, chart and whole jobs on a real Kubernetes node, as root; or on KUBE_CONTEXT's cluster
	$(BIN)/pytest tests/cluster/test_cluster.py $(filter-out %/test_cluster.py,$(sort $(wildcard tests/cluster/test_*.py)))
# Where the cluster is our own: what it needs is made while the example trains.
OWN_CLUSTER := $(if $(KUBE_CONTEXT),,$(if $(filter 0,$(shell id -u)),.venv/cluster))
E2E := $(BIN)/pytest --numprocesses 2 --dist loadfile tests/e2e
test-e2e: setup-dev $(OWN_CLUSTER) ## the quickstart's job from end to end, in a browser too; with root also in pods
	@$(if $(OWN_CLUSTER),nice -n 19 $(BIN)/python -m tests.ahead > .venv/ahead.log 2>&1 &) \
	echo $(E2E); $(E2E) || { kill $$!; exit 1; }; wait
	@if [ -n "$(OWN_CLUSTER)$(KUBE_CONTEXT)" ]; then $(MAKE) test-cluster; \
	else echo "not root and no KUBE_CONTEXT: no cluster was tested"; fi

.venv/cluster: .venv/dev tests/kubernetes/debian-packages.txt
	@tests/install-debian-packages tests/kubernetes/debian-packages.txt
	@touch $@

cluster: .venv/cluster ## a real single-node Kubernetes on this machine, as root; says its kubeconfig
	@$(BIN)/python -m tests.kubernetes.cluster up
cluster-down: .venv/cluster ## end it; only cached programs and images stay
	@$(BIN)/python -m tests.kubernetes.cluster down

CLUSTER := $(or $(FINETUNE_TEST_CACHE),$(HOME)/.cache/finetune-operator-tests)/cluster
images: .venv/uv-$(UV_VERSION) ## the three images by docker, podman or buildah; into the test cluster too when it is up
	$(BIN)/python images/build.py $(if $(wildcard $(CLUSTER)/containerd.sock),--cluster $(CLUSTER))

lint: setup-dev ## ruff, mypy, import-linter, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.generated --check

format: setup-dev ## let ruff put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: setup-dev ## write the generated files anew
	$(BIN)/python -m tests.generated

lock: .venv/uv-$(UV_VERSION) ## resolve requirements/*.in into pins with hashes
	$(BIN)/uv pip compile --quiet --python-version 3.11 --override requirements/overrides.txt --generate-hashes \
		requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --override requirements/overrides.txt --generate-hashes \
		--constraint requirements/dev.txt requirements/local.in -o requirements/local.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --override requirements/overrides.txt --generate-hashes \
		--constraint requirements/dev.txt requirements/operator.in -o requirements/operator.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --no-deps --generate-hashes \
		--constraint requirements/local.txt requirements/hopper.in -o requirements/hopper.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes requirements/checkov.in -o requirements/checkov.txt

bench-quickstart: setup ## the example from nothing to the open demo, and again
	$(BIN)/python benchmarks/bench_quickstart.py
bench-data: setup-dev ## dataset stage against XTuner's own path
	$(BIN)/python benchmarks/bench_data.py
bench-merge: setup-dev ## merge against a plain copy of the same bytes
	$(BIN)/python benchmarks/bench_merge.py
bench-gpu: setup-dev ## QLoRA of an 8B on one GPU: ours, XTuner, peft with Liger, Unsloth
	$(BIN)/python benchmarks/bench_gpu.py --profile
bench-gpus: setup-dev ## the train stage on two GPUs against one
	$(BIN)/python benchmarks/bench_gpus.py
bench-operator: setup-dev ## a thousand FineTuneJobs: how soon the operator acts, what it costs
	$(BIN)/python benchmarks/bench_operator.py --twice

clean: ## remove the virtual environment and caches; workspaces stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build
