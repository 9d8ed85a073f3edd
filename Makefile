# Two commands matter: `make demo` shows Pando, `make test` proves it. The rest is for those who change it.
SHELL := /bin/sh
# A fresh Rust is often not on the path of a non-login shell.
export PATH := $(HOME)/.cargo/bin:$(PATH)

NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help setup demo test matrix soak check fmt bench docs

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## install what building, testing and measuring need (Debian, Ubuntu; asks sudo where it must)
	@./scripts/setup test

demo: ## build Pando and show it on a small live database
	@./scripts/setup demo
	cargo build --release --locked --package pando
	./target/release/pando demo

test: ## everything: tools, lints, all tests
	@./scripts/setup test
	@$(MAKE) --no-print-directory check
	@export PANDO_POSTGRES=$$(./scripts/matrix dirs) PANDO_MARIADB=$$(./scripts/matrix dirs mariadb) \
		PANDO_MYSQL=$$(./scripts/matrix dirs mysql) PANDO_REDIS=$$(./scripts/matrix dirs valkey); \
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace --locked --profile $(NEXTEST_PROFILE); \
	else \
		echo "cargo-nextest is not there: using cargo test (no retries, no time limits)"; \
		cargo test --workspace --locked; \
	fi

matrix: ## the main job on PostgreSQL 13, 15, 16, 17 and 18, MariaDB 10.5, 10.11 and 11.8, Valkey 8 (as root; fetches packages)
	@./scripts/setup test
	@./scripts/matrix install 13 15 16 17 18 mariadb-10.5 mariadb-11.8 valkey-8
	PANDO_POSTGRES=$$(./scripts/matrix dirs) PANDO_MARIADB=$$(./scripts/matrix dirs mariadb) \
		PANDO_REDIS=$$(./scripts/matrix dirs valkey) cargo nextest run --package pando --test system --locked --no-capture -E 'test(/^matrix::/) or test(/series/) or test(/valkey/)'

check: ## format and lints; licences and bans too where cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check bans licenses sources; \
	else echo "cargo-deny is not there: the bans are held by crates/testkit/tests/walls.rs, licences are not looked at"; fi

fmt: ## format all code
	cargo fmt --all

soak: ## the proofs that draw by chance, for hours (PANDO_SEED=… plays a run again, PANDO_POINTS, PANDO_SECONDS, PANDO_CASES: how many)
	@./scripts/setup test
	PANDO_SEED=$(or $(PANDO_SEED),$(shell date +%s)) PANDO_POINTS=$(or $(PANDO_POINTS),200) PANDO_SECONDS=$(or $(PANDO_SECONDS),600) \
		cargo nextest run --package pando --test system --locked --profile soak --no-fail-fast \
		-E 'test(/^(machine|catalog|oracle|chaos)::/)'
	PANDO_POINTS=0 cargo nextest run --package pando --test system --locked --profile soak -E 'test(/^faults::/)'
	cargo nextest run --package pando-operations --locked --profile soak -E 'test(every_pair_of_points)'
	PANDO_CASES=$(or $(PANDO_CASES),1000000) PROPTEST_CASES=$(or $(PANDO_CASES),1000000) cargo nextest run --workspace \
		--locked --profile soak -E 'test(/any_(text|bytes|body)|password_is_never/)'

bench: ## measure, beside bare floors and peers (half an hour; `make bench ARGS=--quick`: some minutes)
	@./scripts/setup bench
	PANDO_MYSQL=$$(./scripts/matrix dirs mysql) cargo bench --locked --package pando --bench speed -- $(or $(ARGS),--write)

docs: ## the documentation of the code
	cargo doc --workspace --no-deps --locked
