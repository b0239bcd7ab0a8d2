# What people and machines run. `make help` lists it; `.ci/run` runs `make check` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PACKAGES := build-essential protobuf-compiler libprotobuf-dev postgresql mariadb-server etcd-server iproute2 nftables python3-venv
ARGS ?=
FUZZ_SECS ?= 60
FUZZ_TARGETS ?=

.PHONY: help setup run cluster drill test sim-nightly check fmt fuzz manifests bench bench-quick

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (Debian packages; changes nothing when all is there)
	@.ci/setup $(PACKAGES)

run: setup ## Start the sandbox on http://127.0.0.1:9090 (the first build takes about five minutes)
	@$(CARGO) run --release -p estafet-cli -- sandbox $(ARGS)

cluster: setup ## Start a local cluster (etcd, PostgreSQL, the network, 2 masters, 3 coreapps, 2 webapps) in the foreground
	@$(CARGO) run --release -p estafet-cli -- cluster $(ARGS)

drill: setup ## Do every failover on purpose, under load, and print a verdict (about half an hour; docs/drills.md)
	@$(CARGO) run --release -p estafet-cli -- drill run all --local $(ARGS)

test: setup ## Run all tests, with a PostgreSQL and a MariaDB of their own
	@.ci/tools
	@$(CARGO) build -p estafet-cli
	@if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --workspace $(ARGS); \
	else echo "cargo-nextest is not installed (cargo install --locked cargo-nextest); using cargo test"; \
	$(CARGO) test --workspace --no-fail-fast $(ARGS); fi

sim-nightly: ## Simulate a cluster under faults with 100,000 seeds, the election with 2,000 (hours; make test does 1,000 and 24)
	@$(CARGO) run -p estafet-sim -- --count 100000 $(ARGS)
	@$(CARGO) run -p estafet-sim-etcd -- --count 2000

fuzz: setup ## Fuzz every target for FUZZ_SECS seconds (60); what is found is kept below fuzz/artifacts (docs/testing.md)
	@.ci/fuzz $(FUZZ_SECS) $(FUZZ_TARGETS)

check: setup ## Check format, lints, licences and banned dependencies
	@.ci/check

fmt: ## Format the code
	@$(CARGO) fmt --all

manifests: ## Render deploy/k8s from the chart
	@.ci/manifests

bench: setup ## Measure accepting and full cycles on PostgreSQL, with and without batching (about 15 minutes)
	@$(CARGO) build --release -p estafet-cli
	@target/release/estafet bench accept $(ARGS)
	@target/release/estafet bench cycle $(ARGS)

bench-quick: setup ## The same at fixed, modest rates (about 2 minutes)
	@$(CARGO) build --release -p estafet-cli
	@target/release/estafet bench accept --rate 500 --secs 10 --rounds 2 $(ARGS)
	@target/release/estafet bench cycle --rate 200 --secs 10 --rounds 2 $(ARGS)
