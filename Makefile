SHELL         := /bin/bash
.DEFAULT_GOAL := help

BIN := $(CURDIR)/.build/bin

# Tools come through the module proxy, pinned, each under its version's name.
GOLANGCI_LINT := $(BIN)/golangci-lint-v2.15.0
GOTESTSUM     := $(BIN)/gotestsum-v1.13.0

# PKG narrows make test, and TESTFLAGS reaches go test:
# make test PKG=./backends/... TESTFLAGS='-run TestMount -count=1'
PKG       ?= ./...
TESTFLAGS ?=
# ONLY keeps make bench to one group of figures.
ONLY ?=
# FUZZTIME is how long make fuzz stays on each target.
FUZZTIME ?= 1m

.PHONY: help
help: ## Show what can be made (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

# The version is what Go itself records: the tag or commit of the checkout.
.PHONY: build
build: ## Build .build/bin/keybroker
	go build -trimpath -buildvcs=auto -o $(BIN)/keybroker ./cmd/keybroker

.PHONY: deps
deps: ## Install or build what the tests need: PostgreSQL, moto (an AWS), an OpenID provider, libraries of the example consumers, an API server of Kubernetes, a Vault core
	@.ci/postgresql
	@.ci/moto
	@.ci/oidc
	@.ci/consumers
	@echo 'API server of Kubernetes (a minute the first time)'
	@go build -C examples/kubernetes/apiserver/core -o /dev/null .
	@echo 'Vault core (some minutes the first time):'
	@go run ./backends/backendtest/vaultserver/build

# Vet builds with -race as well, so that both share every compiled package. Two
# packages at a time, and four tests in each: they start real servers, which need
# cores too, and mostly wait.
.PHONY: test
test: deps $(GOTESTSUM) ## Vet and test everything with the race detector (about 15 minutes when nothing is built yet)
	go vet -race $(PKG)
	@$(GOTESTSUM) --format pkgname-and-test-fails --format-icons text -- -race -p 2 -parallel 4 -timeout 30m $(TESTFLAGS) $(PKG)

# The figures are ordinary Go benchmarks. One of group G is called BenchmarkG…,
# in whatever package it measures, and reports each figure with
# b.ReportMetric(value, "G.figure/unit"), which comes out as "G.figure value unit".
.PHONY: bench
bench: ## Measure: one line "name value unit" per figure; ONLY=policy for one group
	@.ci/bench '$(ONLY)'

# The full forms of the crash harness and of the backends' conformance suite;
# make test runs the short ones. CHAOS_SEED
# repeats the dice of a run, CHAOS_SITES is how many daemons run side by side. The
# figures are printed at the end and kept in .build/chaos.txt. CHAOS_LEAKED secrets are in
# one emergency after the other for CHAOS_LEAKED_SECONDS, under kills, and CHAOS_SECRETS
# are in one while much of what is around them hangs. CHAOS_EVENTS are sent to a node.
CHAOS_KILLS          ?= 10000
CHAOS_SITES          ?= 12
CHAOS_LEAKED         ?= 50
CHAOS_LEAKED_SECONDS ?= 120
CHAOS_SECRETS        ?= 1000
CHAOS_EVENTS         ?= 10000

.PHONY: chaos
chaos: deps ## Kill the daemon CHAOS_KILLS (10000) times while it rotates, and during emergencies; a thousand secrets in one; the suite of backends in full
	@mkdir -p .build
	CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_SITES=$(CHAOS_SITES) CHAOS_REPORT=$(CURDIR)/.build/chaos.txt \
	  go test ./rotation/engine/crashtest -count=1 -timeout 4h -run TestRandomKills -v
	CHAOS_LEAKED=$(CHAOS_LEAKED) CHAOS_LEAKED_SECONDS=$(CHAOS_LEAKED_SECONDS) \
	  go test ./rotation/engine/crashtest -count=1 -timeout 1h -run TestKillsDuringAnIncident -v
	CHAOS_SECRETS=$(CHAOS_SECRETS) go test ./broker/daemon -count=1 -timeout 1h -run TestManySecretsInOneEmergency -v
	CHAOS_EVENTS=$(CHAOS_EVENTS) go test ./broker/daemon -count=1 -timeout 1h -run TestEventsCannotBringTheCompanyToAStandstill -v
	KEYBROKER_LONG=1 go test ./backends/... -count=1 -p 1 -timeout 1h
	@cat .build/chaos.txt

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (1m) each
	@.ci/fuzz '$(FUZZTIME)'

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters: code, formatting, and the floors of the architecture
	$(GOLANGCI_LINT) run ./...

.PHONY: format
format: $(GOLANGCI_LINT) ## Format every Go file as lint wants it
	$(GOLANGCI_LINT) fmt ./...

.PHONY: clean
clean: ## Remove what was built here
	rm -rf .build

# tool installs module path $(1), whose version is the end of the target's name.
define tool
	@echo "building $(@F) (once)"
	@GOBIN=$(BIN)/install go install $(1)@$(lastword $(subst -, ,$(@F)))
	@mv $(BIN)/install/$(notdir $(1)) $@
endef

$(GOLANGCI_LINT):
	$(call tool,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

$(GOTESTSUM):
	$(call tool,gotest.tools/gotestsum)
