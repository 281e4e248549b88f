# Each target does its own set-up; `make help` lists them.
.POSIX:
.PHONY: help demo test torture lint format bench lock clean
BIN = .venv/bin

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1	/p' Makefile

demo: ## mount a store, run an agent and a tool by echo, remount, and see it all again
	@scripts/setup.sh
	@sh scripts/demo.sh

test: ## every test, on a real mount too, in two processes; ARGS= goes to pytest
	@scripts/setup.sh test
	$(BIN)/pytest -q -n 2 --dist loadfile tests $(ARGS)

torture: ## the long tests of ordinary files, as root; PJDFSTEST=DIR FSX=PATH name what no package has
	@scripts/setup.sh test
	$(BIN)/python -m tests.torture $(ARGS)

lint: ## format, ruff, mypy --strict, import-linter
	@scripts/setup.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: ## let ruff write what it can
	@scripts/setup.sh
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: ## the measured claims, as ratios in one run
	@scripts/setup.sh
	$(BIN)/python -m tests.bench $(ARGS)

lock: ## requirements.lock anew from pyproject.toml; UPGRADE=--upgrade for newer versions
	@scripts/setup.sh
	@BIN=$(BIN) scripts/lock.sh $(UPGRADE)

clean: ## .venv and every cache; no store is touched
	rm -rf .venv .bench-venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find nexusfs mount tests -name __pycache__ -type d -prune -exec rm -rf {} +
