# Two commands matter: `make demo` runs a real Kubernetes cluster in the lab, `make test` passes the tests.
# Everything they need is set up by `scripts/setup` (Debian packages, a Python environment in .venv).
.PHONY: setup check test test-long demo demo-failover demo-metal demo-compare lint types unit fuzz bench docs clean

PYTHON := .venv/bin/python
STAMP := .venv/.ready

$(STAMP): pyproject.toml requirements.lock scripts/setup
	@scripts/setup
	@touch $@

# What only tests need: a browser that opens the report.
$(STAMP)-tests: $(STAMP)
	@scripts/setup tests
	@touch $@

setup: $(STAMP)

lint: $(STAMP)
	.venv/bin/ruff check src tests bench scripts
	.venv/bin/ruff format --check src tests bench scripts
	.venv/bin/lint-imports --no-cache

types: $(STAMP)
	.venv/bin/pyright

unit: $(STAMP)-tests
	.venv/bin/pytest -n 2 -m "not lab and not long" tests

check: lint types unit

test: check
	.venv/bin/pytest -m "lab and not long" tests/e2e tests/contract

test-long: test
	.venv/bin/pytest -m long tests/e2e

demo: $(STAMP)
	$(PYTHON) scripts/demo.py

demo-failover: $(STAMP)
	$(PYTHON) scripts/demo_failover.py

demo-metal: $(STAMP)
	$(PYTHON) scripts/demo_metal.py

demo-compare: $(STAMP)
	$(PYTHON) scripts/demo_compare.py

# New seeds each time: they begin where the clock is. `make fuzz FIRST=4711` tells those from 4711 on again.
FIRST ?= $(shell date +%s)
fuzz: $(STAMP)
	nice .venv/bin/bedplate sim fuzz --seeds 1000 --first-seed $(FIRST) --servers 12 --hours 12 --keep fuzz-found

bench: $(STAMP)
	$(PYTHON) -m bench

clean:
	rm -rf .venv .pytest_cache .ruff_cache
