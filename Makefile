# What a person types. CI calls the same targets, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO := scripts/cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/$(if $(RELEASE),release,debug)
RELEASED := $(or $(CARGO_TARGET_DIR),target)/release
REPEAT ?= 1
PORT_BASE ?= 8080
BROKER ?= memory
export BROKER
# What the parts that were asked for need: nothing but what setup brings, unless they are real ones.
PARTS = $(if $(filter kafka,$(BROKER)),kafka) $(if $(filter jaeger,$(TRACES)),jaeger)
# All but the bench, which nobody needs who does not measure.
PRODUCT := --workspace --exclude bench
# Selecting by test and not by package keeps one set of features, so nothing is compiled twice.
tests_in = $(patsubst %.rs,--test %,$(notdir $(wildcard $(1)/tests/*.rs)))
# Nextest where it is there, cargo's own runner elsewhere: the same tests.
TEST = $(CARGO) $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run || echo test)
CHAOS = $(BIN)/chaos --rate $(or $(RATE),10) --commit $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
COMPOSE = docker compose $(if $(PREBUILT),--file compose.yaml --file deploy/compose.prebuilt.yaml)
OURS := order inventory payment shipping providers switchback
BUGS := no_inbox_no_idempotence fresh_key ack_first dual_write unknown_refused

.PHONY: help
help: ## what can be typed here
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup $(PARTS) ## sagas on the terminal: arriving, switching back, surviving a kill (ONCE=1 ends, RELEASE=1, BROKER=kafka, TRACES=jaeger)
	$(CARGO) build --locked $(PRODUCT) --bins $(if $(RELEASE),--release)
	$(BIN)/switchback demo --port-base $(PORT_BASE) $(if $(TRACES),--traces $(TRACES)) $(if $(ONCE),--once)

.PHONY: test
test: setup ## all that is quick: unit, property, store and shell tests, the model, tidy, examples
	$(TEST) --locked --workspace --exclude e2e-tests --no-fail-fast
	$(CARGO) test --locked --workspace --exclude e2e-tests --doc

.PHONY: overlaps
overlaps: setup ## writers that share subjects, thousands of times: no lost input, no storm of deadlocks (ROUNDS=10000)
	OVERLAP_ROUNDS=$(or $(ROUNDS),10000) $(TEST) --locked --workspace --exclude e2e-tests --test store overlaps

.PHONY: model
model: setup ## the model checker over the four real decision functions, with its counts
	$(CARGO) test --locked --workspace $(call tests_in,e2e-tests/model) -- --nocapture

.PHONY: e2e
e2e: $(PARTS) ## scenarios and crash points on real processes (REPEAT=n, DISPATCH=outbox, BROKER=kafka, INSTANCES=2)
	@scripts/setup e2e
	scenarios="--locked $(PRODUCT) --features chaos --lib $(call tests_in,e2e-tests)"
	$(CARGO) build --locked $(PRODUCT) --bins --features chaos
	$(TEST) $$scenarios --no-run
	for pass in $$(seq $(REPEAT)); do
	    start=$$SECONDS
	    $(TEST) $$scenarios --no-fail-fast
	    echo "e2e: pass $$pass of $(REPEAT) took $$((SECONDS - start)) s (DISPATCH=$${DISPATCH:-direct} BROKER=$(BROKER) INSTANCES=$${INSTANCES:-1})"
	done

.PHONY: contract
contract: setup kafka ## what the bus relies on, over the in-memory broker and over Apache Kafka (REPEAT=n)
	for pass in $$(seq $(REPEAT)); do
	    for broker in memory kafka; do
	        start=$$SECONDS
	        BROKER=$$broker $(TEST) --locked --workspace --exclude e2e-tests --test contract --no-fail-fast
	        echo "contract: pass $$pass of $(REPEAT) took $$((SECONDS - start)) s (BROKER=$$broker)"
	    done
	done

.PHONY: e2e-traces
e2e-traces: setup jaeger $(PARTS) ## the demo's story, then its traces as the real Jaeger tells them (BROKER=kafka)
	$(CARGO) build --locked $(PRODUCT) --bins --features chaos
	TRACES=jaeger $(TEST) --locked $(PRODUCT) --features chaos --test traces --no-fail-fast

.PHONY: image
image: ## the image that holds every binary of ours (PREBUILT=1: built here, not in a container)
	if [ -n "$(PREBUILT)" ]; then
	    scripts/setup
	    $(CARGO) build --locked $(PRODUCT) --bins $(if $(RELEASE),--release)
	    install -D --strip --target-directory=target/image/out $(addprefix $(BIN)/,$(OURS))
	fi
	$(COMPOSE) build

.PHONY: up
up: image ## every part as it is deployed, in containers: Kafka, Postgres, Jaeger and ours (PREBUILT=1)
	@$(COMPOSE) up --detach --wait --wait-timeout 180
	for service in $(filter-out switchback,$(OURS)); do
	    printf '%-10s http://%s\n' "$$service" "$$($(COMPOSE) port "$$service" 8080)"
	done
	printf '%-10s http://%s\n' jaeger "$$($(COMPOSE) port jaeger 16686)"

.PHONY: down
down: ## ends what `make up` began; no container, network or volume is left
	$(COMPOSE) --profile '*' down --volumes --remove-orphans

.PHONY: logs
logs: ## follows what the containers say
	$(COMPOSE) logs --follow --tail 20

.PHONY: ps
ps: ## the containers, and how they are
	$(COMPOSE) ps --all

.PHONY: demo-compose
demo-compose: setup ## the demo's story on what `make up` has started
	$(CARGO) build --locked $(PRODUCT) --bins
	$(BIN)/switchback demo --compose $(if $(ONCE),--once)

.PHONY: compose-test
compose-test: setup image ## containers of its own: orders, roles, kills under load, and what all that costs (PREBUILT=1)
	$(CARGO) build --locked --workspace --example compose
	$(COMPOSE) pull --quiet --policy missing kafka postgres jaeger
	$(or $(CARGO_TARGET_DIR),target)/debug/examples/compose

.PHONY: chaos
chaos: setup $(PARTS) ## everything breaks while orders run, then it is checked (SECONDS=180 SEED=1 RATE=10 SCHEDULE=file BUG=name BROKER=kafka)
	$(CARGO) build --locked $(PRODUCT) --bins --features chaos
	$(CHAOS) $(if $(SCHEDULE),--schedule $(SCHEDULE),--seconds $(or $(SECONDS),180) --seed $(or $(SEED),1)) $(if $(BUG),--bug $(BUG))

.PHONY: bugs
bugs: setup ## each seeded bug must be found by a chaos run (SECONDS=90 SEED=1)
	$(CARGO) build --locked $(PRODUCT) --bins --features chaos
	for bug in $(BUGS); do
	    code=0
	    $(CHAOS) --seconds $(or $(SECONDS),90) --seed $(or $(SEED),1) --bug $$bug || code=$$?
	    [ $$code = 1 ] || { echo "bugs: $$bug was not found (exit $$code)"; exit 1; }
	done
	echo "bugs: each of these was found by a statement that is meant for it: $(BUGS)"

.PHONY: figures
figures: setup $(PARTS) ## what a stack costs here and how quick it is, held against its bounds (release, BROKER=kafka)
	$(CARGO) build --locked $(PRODUCT) --bins --example figures --release
	$(or $(CARGO_TARGET_DIR),target)/release/examples/figures

.PHONY: bench
bench: setup kafka ## how fast, against what, how close to the limit; 40 min on a machine that is left alone (QUICK=1: 10)
	$(CARGO) build --locked --workspace --bins --release
	$(RELEASED)/bench run --broker kafka $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS))
	$(RELEASED)/bench report

.PHONY: soak
soak: setup kafka ## a million orders: does anything grow? (ORDERS=1000000)
	$(CARGO) build --locked --workspace --bins --release
	$(RELEASED)/bench soak --broker kafka --orders $(or $(ORDERS),1000000)
	$(RELEASED)/bench report

.PHONY: steady
steady: setup $(PARTS) ## the figures that do not depend on the machine, held against their bounds (BROKER=kafka)
	$(CARGO) build --locked --workspace --bins
	$(BIN)/bench steady

.PHONY: lint
lint: tools ## formats, clippy, licences and bans, unused dependencies, spelling, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --all-features
	$(CARGO) deny --locked --log-level error check bans licenses sources
	$(CARGO) shear --locked
	.tools/bin/typos

.PHONY: audit
audit: tools ## known vulnerabilities; fetches the advisory database from GitHub
	$(CARGO) deny --locked check advisories

.PHONY: fmt
fmt: tools ## formats the code
	$(CARGO) fmt --all

.PHONY: kafka
kafka: ## Apache Kafka's jars from Maven Central into ~/.cache/switchback (KAFKA_HOME: they are there)
	@scripts/setup kafka

.PHONY: jaeger
jaeger: ## Jaeger, built once from its Go module into ~/.cache/switchback (JAEGER_BIN: it is there)
	@scripts/setup jaeger

.PHONY: setup
setup: ## installs what is missing on Debian, names it elsewhere (NO_INSTALL=1: only names it)
	@scripts/setup

.PHONY: doctor
doctor: ## looks at every piece and installs nothing
	@PORT_BASE=$(PORT_BASE) TRACES=$(TRACES) scripts/setup doctor

.PHONY: tools
tools: setup ## linters and a test runner, prebuilt from PyPI, into .tools
	@scripts/setup tools

.PHONY: clean
clean: ## removes what was built and the tools
	$(CARGO) clean
	rm -rf .tools

.NOTPARALLEL:
.ONESHELL:
