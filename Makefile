# Everything a newcomer needs: `make demo` shows it alive, `make test` proves it.

SEEDS ?= 2000
SEED  ?= 1
COMPANIES ?= 100
FUZZ_SECONDS ?= 60
export RUST_BACKTRACE ?= 0

.PHONY: demo test check lint simulate fuzz bench test-long test-sdk test-fhir-server doc tools

demo: ## A HubSpot account, a daemon, and people at work on both sides.
	cargo build --bin tandem
	cargo run --quiet -- demo

check: lint ## The inner loop: format, clippy, unit tests, the merge table and the laws.
	cargo test --workspace --lib
	cargo test --test it -- laws structure

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: tools lint ## Everything, on SQLite and on a PostgreSQL of its own.
	cargo test --workspace --lib
	tests/with-postgres cargo test --test it -- --nocapture
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

test-long: tools ## More seeds, more kills.
	SEEDS=20000 KILLS=250 tests/with-postgres cargo test --release --test it -- --nocapture

simulate: ## HubSpot accounts and companies of several systems; SEED=, SEEDS= and COMPANIES= choose.
	cargo build --release --bin tandem
	cargo run --release --quiet -- simulate --seed $(SEED) --seeds $(SEEDS)
	cargo run --release --quiet -- simulate --companies --seed $(SEED) --seeds $(COMPANIES)

fuzz: ## A minute for each target, or FUZZ_SECONDS=; wants a nightly compiler and cargo-fuzz.
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in $$(cargo +nightly fuzz list); do \
	  cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 || exit 1; done

bench: ## Each figure beside a yardstick of the same run; DEALS= chooses the size.
	cargo bench --bench tandem

test-sdk: tools ## The vendors' official client libraries against the sandboxes.
	tests/sdk/run

test-fhir-server: tools ## A FHIR server that nobody here wrote against the connector; building it takes half an hour, once.
	tests/fhir-server/run

doc:
	cargo doc --workspace --no-deps --open

tools: ## Installs what is missing: PostgreSQL and curl, from the system's packages.
	@tests/install-tools
