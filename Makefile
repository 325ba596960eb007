# Everything a person types. `make run` shows calls being balanced; `make test` shows that all of it is true.

.PHONY: run test bench fuzz build deb tools format
CARGO ?= cargo

run:
	$(CARGO) run --release --locked -- demo

build:
	$(CARGO) build --release --locked

# The Debian packages, in target/debian. It needs debhelper, dh-apparmor and lowdown.
deb:
	debian/build

# What the tests need besides Rust: Debian packages and two cargo tools. Installs what is absent.
tools:
	tests/setup

test: tools
	tests/all

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60
fuzz:
	fuzz/run $(FUZZ_SECONDS)

bench: tools
	benches/run

format:
	$(CARGO) fmt
