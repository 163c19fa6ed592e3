# Penstock: what people and CI run. `make help` lists it.
#
# Everything that is downloaded or built for tests lies in PENSTOCK_CACHE_DIR and is verified or pinned; nothing needs root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(if $(PENSTOCK_CACHE_DIR),$(PENSTOCK_CACHE_DIR),$(HOME)/.cache/penstock)
export PENSTOCK_CACHE_DIR := $(CACHE)
# Builds the client of etcd, which only the workspace as a whole has.
export PROTOC ?= $(abspath $(CACHE)/bin/protoc)
# What is tested can keep its state in etcd; `make run` does without.
TESTED = --workspace --features penstock/etcd
PYTHON3 ?= python3
VENV = $(CACHE)/venv-$(shell cat tests/requirements.txt tests/constraints.txt | sha256sum | cut -c1-12)
DEPLOY_VENV = $(CACHE)/venv-deploy-$(shell sha256sum deploy/requirements.txt | cut -c1-12)
ZIG_VENV = $(CACHE)/venv-zig-$(shell sha256sum deploy/aws/requirements.txt | cut -c1-12)
PYTEST = $(VENV)/bin/python -m pytest -q -o cache_dir=$(CACHE)/pytest

.PHONY: help run fetch test lint lint-deploy deny unit clients loadtest bench prove demo-scaling sim cuda gpu-check gpu-check-onnx agent-arm64 agent-x86 clean

help: ## This list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1	/' | expand -t 18

run: fetch ## Build, fetch the demo models, serve until Ctrl-C
	@cargo build --release --bin penstock
	@exec target/release/penstock serve

fetch: ## Fetch and verify the demo models and ONNX Runtime
	@$(PYTHON3) models/catalog/fetch.py

test: fetch lint lint-deploy unit clients deny ## Everything CI runs
	@echo "all tests passed"

lint: protoc ## Format and clippy, warnings denied
	cargo fmt --all --check
	cargo fmt --manifest-path gpu/environment/Cargo.toml --check
	@# Its lock file is its own: it must follow the other.
	cargo metadata --locked --format-version 1 --manifest-path gpu/environment/Cargo.toml > /dev/null
	cargo clippy $(TESTED) --all-targets --quiet -- -D warnings
	cargo clippy -p penstock --all-targets --quiet -- -D warnings

lint-deploy: $(DEPLOY_VENV)/ok ## Images, unit, stack, alerts and dashboard in deploy/, held against the program
	@tests/tools.sh prometheus
	@$(DEPLOY_VENV)/bin/python deploy/lint.py

unit: fetch protoc ## Rust tests
	@tests/tools.sh etcd
	cargo test $(TESTED) --quiet

clients: fetch $(VENV)/ok tools protoc ## Real clients against the real program
	cargo build $(TESTED) --bins --quiet
	cargo build -p penstock-ec2 --example ec2_provider --quiet
	@# Real processes on a busy machine: what fails is run once more by itself, and said; failing twice fails.
	$(PYTEST) tests || { echo "FLAKY OR BROKEN: once more, only what failed"; $(PYTEST) --last-failed --last-failed-no-failures none tests; }

# Hopper unless told otherwise: a kernel runs on its own generation.
CUDA_COMPUTE_CAP ?= 90

cuda: ## Build the executable for environments on a GPU, beside the program (no GPU needed)
	@toolkit=$$($(PYTHON3) gpu/environment/toolkit.py $(CACHE)); \
	PATH="$$toolkit/bin:$$PATH" CUDA_HOME="$$toolkit" CUDA_PATH="$$toolkit" CUDA_ROOT="$$toolkit" \
	CUDA_COMPUTE_CAP=$(CUDA_COMPUTE_CAP) \
	cargo build --release --locked --manifest-path gpu/environment/Cargo.toml --target-dir target/cuda
	@mkdir -p target/release && cp target/cuda/release/penstock-environment-cuda target/release/
	@ls -l target/release/penstock-environment-cuda

gpu-check: fetch cuda ## Pack what a machine with a GPU runs to check everything there
	@cargo build --release --bin penstock --bin penstock-loadtest
	@$(PYTHON3) gpu/check/pack.py target/gpu-check

gpu-check-onnx: fetch cuda ## The same for ONNX graphs: with ONNX Runtime's CUDA provider in place of the encoder
	@$(PYTHON3) models/catalog/fetch.py --only onnxruntime-cuda
	@$(PYTHON3) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target target/zstandard --upgrade zstandard==0.25.0
	@cargo build --release --bin penstock --bin penstock-loadtest
	@PYTHONPATH=target/zstandard $(PYTHON3) gpu/check/pack.py target/gpu-check-onnx onnx

# Of the machine images that agents run on (Amazon Linux 2023): what is linked against a newer one does not start there.
GLIBC ?= 2.34

# For arm64 it needs half-precision arithmetic: Graviton 2 and later have it.
#
# The program for a target, linked by zig, whatever this machine's processor and libraries are; its SHA-256 goes into the settings.
define AGENT
	@test -d "$$($${RUSTC:-rustc} --print sysroot)/lib/rustlib/$(1)" || rustup target add $(1)
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-cpu=neoverse-n1" PATH="$(ZIG_VENV)/bin:$$PATH" \
		cargo zigbuild --release --locked --bin penstock --target $(1).$(GLIBC)
	@mkdir -p target/agents && cp target/$(1)/release/penstock target/agents/penstock-$(1)
	@cd target/agents && sha256sum penstock-$(1)
endef

agent-arm64: $(ZIG_VENV)/ok ## Cross-build the agent of arm64 instances of EC2
	$(call AGENT,aarch64-unknown-linux-gnu)

agent-x86: $(ZIG_VENV)/ok ## Build the agent of x86_64 instances of EC2, against their C library
	$(call AGENT,x86_64-unknown-linux-gnu)

deny: ## Bans, licences and sources of dependencies
	@tests/tools.sh cargo-deny
	$(CACHE)/bin/cargo-deny --log-level warn check bans licenses sources

.PHONY: tools protoc
tools:
	@tests/tools.sh ghz prometheus etcd

protoc:
	@[ "$(PROTOC)" != "$(abspath $(CACHE)/bin/protoc)" ] || tests/tools.sh protoc

$(VENV)/ok: tests/requirements.txt tests/constraints.txt
	@echo "installing the test clients into $(VENV)"
	@$(PYTHON3) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt -c tests/constraints.txt
	@touch $@

$(DEPLOY_VENV)/ok: deploy/requirements.txt
	@echo "installing what looks at deploy/ into $(DEPLOY_VENV)"
	@$(PYTHON3) -m venv $(DEPLOY_VENV)
	@$(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/requirements.txt
	@touch $@

$(ZIG_VENV)/ok: deploy/aws/requirements.txt
	@echo "installing what links for other machines into $(ZIG_VENV)"
	@$(PYTHON3) -m venv $(ZIG_VENV)
	@$(ZIG_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/aws/requirements.txt
	@touch $@

loadtest: fetch ## Load scenarios, ours and ghz's, with one HTML report
	@cargo build --release --bin penstock --bin penstock-loadtest
	@loadtest/run.sh

bench: fetch $(VENV)/ok ## The figures of the README, beside their ceilings
	@cargo build --release --bin penstock --bin penstock-loadtest
	@$(VENV)/bin/python loadtest/bench.py

prove: fetch $(VENV)/ok tools ## What takes longer: cycles, kills, sweeps; writes a report
	@cargo build --release --bin penstock --bin penstock-loadtest
	@cargo build --release -p penstock-environment --example cancel
	@$(VENV)/bin/python loadtest/prove.py

demo-scaling: fetch $(VENV)/ok ## A load step, a killed instance, a quiet spell, as one plot; about two minutes
	@cargo build --release --bin penstock
	@$(VENV)/bin/python loadtest/demo_scaling.py

SEEDS ?= 20000
sim: ## Many seeds of the simulation (SEEDS=20000), and the goodput curve
	@cargo build --release --bin penstock-sim
	@target/release/penstock-sim seeds --count $(SEEDS)
	@target/release/penstock-sim curve --out loadtest/reports

clean: ## Remove what was built here (not the cache)
	cargo clean
