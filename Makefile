# Two commands matter: `make demo` runs a real Kubernetes cluster in the lab, `make test` passes the tests.
# Everything they need is set up by `scripts/setup` (Debian packages, a Python environment in .venv).
.PHONY: setup check test test-long demo demo-failover lint types unit bench docs clean

PYTHON := .venv/bin/python
STAMP := .venv/.ready

$(STAMP): pyproject.toml requirements.lock scripts/setup
	@scripts/setup
	@touch $@

setup: $(STAMP)

lint: $(STAMP)
	.venv/bin/ruff check src tests bench scripts
	.venv/bin/ruff format --check src tests bench scripts
	.venv/bin/lint-imports --no-cache

types: $(STAMP)
	.venv/bin/pyright

unit: $(STAMP)
	.venv/bin/pytest -n 2 -m "not lab and not long"

check: lint types unit

test: check
	.venv/bin/pytest -m "lab and not long" tests/e2e tests/contract

test-long: test
	.venv/bin/pytest -m long tests/e2e

demo: $(STAMP)
	$(PYTHON) scripts/demo.py

demo-failover: $(STAMP)
	$(PYTHON) scripts/demo_failover.py

bench: $(STAMP)
	$(PYTHON) -m bench

clean:
	rm -rf .venv .pytest_cache .ruff_cache
