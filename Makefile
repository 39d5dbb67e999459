.POSIX:
# What a newcomer types. Works with the make of Linux and of macOS (3.81).

# PYTHON, DAGSTER_PORT and MLFLOW_PORT reach the scripts through the environment, given before or after `make`.
VENV_PYTHON = .venv/bin/python
INSTALLED = .venv/.installed

help: ## this list
	@echo 'Usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## the packages of constraints.txt into .venv (PYTHON=python3.12 chooses the Python)

$(INSTALLED): pyproject.toml constraints.txt
	@scripts/install
	@touch $(INSTALLED)

java: ## find Java 17 or newer, which Spark needs and Sail does not, or install it where apt can, or say what to type
	@scripts/ensure-java

chromium: ## find Chromium, for the browser test, or install it where apt can, or say what to type
	@scripts/ensure-chromium

postgres: ## find Postgres, for its test, or install it where apt can, or say what to type
	@scripts/ensure-postgres

demo: export CHURN_AUTOMATION = on
demo: run ## the whole lifecycle on a simulated food-delivery company (the shipped sources.toml)

run: $(INSTALLED) ## the whole lifecycle on what sources.toml names (CHURN_PROJECT= chooses another folder's)
	@scripts/ensure-java --if-asked $(VENV_PYTHON) -m churn_assets.cli run

doctor: $(INSTALLED) ## what is wrong with this machine or configuration, and how to mend it
	@$(VENV_PYTHON) -m churn_assets.cli doctor

dev: $(INSTALLED) ## Dagster on port 3000 and MLflow on 5000 until Ctrl-C (DAGSTER_PORT=, MLFLOW_PORT= choose others)
	@scripts/ensure-java --if-asked $(VENV_PYTHON) scripts/dev

# A file at a time, those that take longest first (conftest.py). Three processes, for a third of their time two wait for
# servers, daemons and JVMs; each has a Spark session of its own.
test: $(INSTALLED) ## every test (ARGS='-m unit' those of seconds, '-m flow', '-m system'; ARGS='-k features' some)
	@scripts/ensure-java --if-found $(VENV_PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint types imports definitions ## lint, format, types, the import rules, the definitions (make -k check shows all that fails)

lint: $(INSTALLED) ## ruff: rules and format
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

types: $(INSTALLED) ## mypy: the package, its tests, the benchmarks and the scripts
	$(VENV_PYTHON) -m mypy

imports: $(INSTALLED) ## which room may import which
	$(VENV_PYTHON) .venv/bin/lint-imports --no-cache --no-logo

definitions: $(INSTALLED) ## Dagster loads what workspace.yaml names
	scripts/validate-definitions

format: $(INSTALLED) ## let ruff fix and format
	$(VENV_PYTHON) -m ruff check --fix-only .
	$(VENV_PYTHON) -m ruff format .

bench: $(INSTALLED) ## measure what the pages' figures come from (ARGS=gate chooses one)
	@scripts/ensure-java --if-found $(VENV_PYTHON) -m benchmarks $(ARGS)

mutations: $(INSTALLED) ## ways to break the code on purpose, listed (ARGS='--run gate': does a test notice each?)
	@scripts/ensure-java --if-found $(VENV_PYTHON) scripts/mutations $(ARGS)

clean: ## remove what these targets made: .venv, the data they wrote, caches
	@scripts/clean

.PHONY: help install java chromium postgres demo run doctor dev test check lint types imports definitions format bench mutations clean
