# Everything a contributor, a newcomer and CI do. Thin: each target is one command of another tool.
# Override on the command line: make PYTHON=python3.12 CC=clang test
# WORKERS: processes that Python tests run in, at most four; 0 for a debugger or for output as it comes.

PYTHON ?= python3
PYPY ?= pypy3
CARGO ?= cargo
CC ?= cc
VALGRIND ?= valgrind
PYTEST_ARGS ?=
WORKERS ?= logical
BENCH_ARGS ?=
FUZZ_ARGS ?=
SANITIZE_ARGS ?=
export CARGO CC VALGRIND

VENV := .venv
PY := $(VENV)/bin/python
PYPY_VENV := .venv-pypy
IN_CRATE := cd csrc &&
PIP_FLAGS := --quiet --disable-pip-version-check
# Files stay whole, because their tests share daemons and kernels.
PYTEST := -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# PyPy differs in the binding, collection, threads, the ends of interpreters and what stands on these.
PYPY_TESTS := -m 'pypy or not (slow or stress or c or interop)' --ignore tests/conformance
# Without kernels, and with few examples of each property.
QUICK_TESTS := -m 'not (kernel or slow or stress or interop)' --ignore tests/integration --ignore tests/conformance
# The numbers of repetitions of `make test-long`; tests/conftest.py has those of `make test`.
LONGER := --crash-runs 500 --exit-runs 50 --fork-runs 100 --soak-rounds 50

# Cargo's profile for the library in the package: `release` for those who use it, `dev` for the tests, because the Rust
# tests have compiled everything for that. A stamp below says which one is there.
LIBRARY_PROFILE = release

# What the library is made of, and what the extension is made of besides.
RUST_SOURCES := $(shell find csrc/src -name '*.rs') csrc/Cargo.toml csrc/Cargo.lock csrc/build.rs
NATIVE_SOURCES := $(RUST_SOURCES) csrc/include/runtimed_ffi.h csrc/runtimed_ffi.pc.in build_lib.py build_ffi.py setup.py

.DELETE_ON_ERROR:
.PHONY: build help run test check test-long dev lib tools header header-check abi lint format bench wheel clean \
	test-rust test-python test-quick test-c test-pypy test-long-python test-long-pypy prepare-pypy \
	fuzz sanitize miri check-rustfmt check-clippy check-ruff check-mypy

build: $(VENV)/.native-release ## Build library and extension in place (default)

help: ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /  \1:/p' Makefile | awk -F: '{ printf "%-15s %s\n", $$1, $$2 }'

run: build ## Run a few cells on a real kernel
	@$(PY) examples/first_run.py

test: ## Run every check and every test, with one summary at the end
	@$(MAKE) --no-print-directory tools
	@$(PYTHON) tools/test_all.py test "$(MAKE)" "$(PYPY)"

check: ## Linters, type checker, Rust tests and the quick Python tests
	@$(MAKE) --no-print-directory tools
	@$(PYTHON) tools/test_all.py check "$(MAKE)" "$(PYPY)"

test-long: ## What only a long run can show, and everything on PyPy (docs/testing.md)
	@$(MAKE) --no-print-directory tools
	@$(PYTHON) tools/test_all.py long "$(MAKE)" "$(PYPY)"

# --- tools and environments; stamp files make the second time quick

tools:
	@command -v $(PYTHON) >/dev/null || { echo "Missing: $(PYTHON). Install Python 3.9 or newer (python.org, or your system's python3), or name one: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c pass || { echo "Broken: $(PYTHON) does not run. Name a working Python 3.9 or newer: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo "Too old: $(PYTHON) is `$(PYTHON) -V 2>&1`; 3.9 or newer is needed: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Missing: the venv module of $(PYTHON). Install your system's python3-venv package"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "Missing: the C headers of $(PYTHON). Install your system's python3-dev (or python3-devel) package"; exit 1; }
	@command -v $(CARGO) >/dev/null || { echo "Missing: $(CARGO). Install a Rust toolchain: https://rustup.rs"; exit 1; }
	@command -v $(CC) >/dev/null || { echo "Missing: $(CC). Install a C compiler: your system's gcc or clang package (macOS: xcode-select --install), or name one: make CC=..."; exit 1; }

$(VENV)/.created:
	@$(MAKE) --no-print-directory tools
	@echo "-- creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The library first and by itself: pip would hide minutes of cargo's progress.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "-- building the C library (the first time takes minutes)"
	@RTD_CARGO_PROFILE=$(LIBRARY_PROFILE) $(PY) build_lib.py
	@echo "-- installing runtimed-ffi and what it needs into $(VENV)"
	@RTD_CARGO_PROFILE=$(LIBRARY_PROFILE) $(PY) -m pip install $(PIP_FLAGS) 'setuptools>=77' -e .
	@touch $@

$(VENV)/.native-release: $(VENV)/.installed $(NATIVE_SOURCES)
	@$(PY) build_ffi.py
	@rm -f $(VENV)/.native-dev
	@touch $@

$(VENV)/.native-dev: LIBRARY_PROFILE = dev
$(VENV)/.native-dev: $(VENV)/.installed $(NATIVE_SOURCES)
	@RTD_CARGO_PROFILE=dev $(PY) build_ffi.py
	@rm -f $(VENV)/.native-release
	@touch $@

$(VENV)/.dev: LIBRARY_PROFILE = dev
$(VENV)/.dev: $(VENV)/.installed
	@echo "-- installing the tools for development into $(VENV)"
	@RTD_CARGO_PROFILE=dev $(PY) -m pip install $(PIP_FLAGS) -e '.[dev]'
	@rm -f $(VENV)/.native-release
	@touch $@

$(PYPY_VENV)/.installed: pyproject.toml
	@echo "-- creating $(PYPY_VENV)"
	@$(PYPY) -m venv $(PYPY_VENV)
	@echo "-- installing runtimed-ffi and what it needs into $(PYPY_VENV)"
	@RTD_CARGO_PROFILE=dev $(PYPY_VENV)/bin/python -m pip install $(PIP_FLAGS) 'setuptools>=77' -e '.[test]'
	@rm -f $(VENV)/.native-release
	@touch $@

$(PYPY_VENV)/.native: $(PYPY_VENV)/.installed $(NATIVE_SOURCES)
	@RTD_CARGO_PROFILE=dev $(PYPY_VENV)/bin/python build_ffi.py
	@rm -f $(VENV)/.native-release
	@touch $@

dev: $(VENV)/.native-dev $(VENV)/.dev ## Set up .venv for development

# --- the C library and its facts

lib: ## Build the C library only; fills runtimed_ffi/lib and include
	@$(PYTHON) build_lib.py
	@rm -f $(VENV)/.native-dev

header: ## Write csrc/include/runtimed_ffi.h from the Rust sources
	$(IN_CRATE) RTD_UPDATE_HEADER=1 $(CARGO) test --locked --quiet --test header header_matches

header-check: ## Compare the header with the sources, and the sources with the rules for exports
	$(IN_CRATE) $(CARGO) test --locked --quiet --test header --test exports

abi: header ## Rewrite csrc/abi after a wanted change of the ABI (also needs a line in docs/abi-changes.md)
	@$(MAKE) --no-print-directory dev
	RTD_UPDATE_ABI=1 $(PY) -m pytest --quiet tests/test_abi_gate.py

# --- checks; `make test` runs these one by one

check-rustfmt:
	$(IN_CRATE) $(CARGO) fmt --check

check-clippy:
	$(IN_CRATE) $(CARGO) clippy --locked --all-targets -- -D warnings

check-ruff: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

check-mypy: $(VENV)/.dev
	$(PY) -m mypy

lint: check-rustfmt check-clippy check-ruff check-mypy ## All linters and the type checker

format: $(VENV)/.dev ## Format Rust and Python
	$(IN_CRATE) $(CARGO) fmt
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test-rust: ## Rust tests
	$(IN_CRATE) $(CARGO) test --locked

test-python: dev ## Python tests (PYTEST_ARGS=... for a selection)
	$(PY) $(PYTEST) $(PYTEST_ARGS)

test-quick: dev ## Python tests without kernels and without what takes long
	RTD_PROFILE=$${RTD_PROFILE:-dev} $(PY) $(PYTEST) $(QUICK_TESTS) $(PYTEST_ARGS)

test-c: dev ## The tests that compile and run C programs
	$(PY) $(PYTEST) -m c $(PYTEST_ARGS)

prepare-pypy: $(PYPY_VENV)/.native

test-pypy: prepare-pypy ## What can differ on PyPy (docs/testing.md)
	$(PYPY_VENV)/bin/python $(PYTEST) $(PYPY_TESTS) $(PYTEST_ARGS)

test-long-python: dev
	$(PY) $(PYTEST) --long -m 'long or stress' $(LONGER) $(PYTEST_ARGS)

test-long-pypy: prepare-pypy
	$(PYPY_VENV)/bin/python $(PYTEST) $(PYTEST_ARGS)

# --- what needs nightly Rust and takes its time (docs/fuzzing.md); each says what it skips

fuzz: ## Run the fuzz targets on nightly Rust (FUZZ_ARGS='--runs 100000 doc_load')
	@$(PYTHON) tools/nightly.py fuzz $(FUZZ_ARGS)

sanitize: ## Rust tests and C programs with address and thread sanitizers in the library
	@$(PYTHON) tools/nightly.py sanitize $(SANITIZE_ARGS)

miri: ## Unit tests of the pure tier under miri
	@$(PYTHON) tools/nightly.py miri

# --- the rest

bench: build ## What the README claims, measured here
	@$(PY) -m benchmarks $(BENCH_ARGS)

wheel: build ## A wheel for this platform, in dist/
	@rm -rf build dist
	@$(PY) -m pip wheel $(PIP_FLAGS) --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean: ## Remove everything that was built
	rm -rf build dist $(VENV) $(PYPY_VENV) *.egg-info csrc/target csrc/fuzz/target
	rm -rf runtimed_ffi/lib runtimed_ffi/include runtimed_ffi/_native.c runtimed_ffi/_native.*.so runtimed_ffi/_native.*.o .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
