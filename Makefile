# make demo           set everything up, then run the main job on this machine
# make test           install what the tests need, then run everything, as CI does
# make check          format, lint, types and quick tests
# make cluster        start a Slurm cluster, RabbitMQ and Postgres on this machine, and say how to use them
# make cluster-stop   take every trace of them away
PYTHON ?= python3
export PYTHON
BIN := .venv/bin

.PHONY: help demo test check cluster cluster-stop lint venv venv-test packages clean

help:
	@sed -n 's/^# make /  make /p' Makefile

demo: venv
	@$(BIN)/pyfi demo

test: packages venv-test lint
	@echo "==> Running all tests; they start the services they need themselves" >&2
	@$(BIN)/python -m pytest -q
	@echo "==> One short round of the benchmarks; docs/benchmarks.md has the full table" >&2
	@$(BIN)/python -m benchmarks --rounds 1 --seconds 1.5

check: venv-test lint
	@echo "==> Quick tests" >&2
	@$(BIN)/python -m pytest -q -m "not slow and not gpu" tests/unit

# such as: make cluster ARGS="--nodes 5 --accounting"
cluster: packages venv
	@$(BIN)/python -m pyfi_hpc.box start $(ARGS)

cluster-stop: venv
	@$(BIN)/python -m pyfi_hpc.box stop $(ARGS)

lint: venv-test
	@echo "==> Format, lint and types" >&2
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

packages:
	@scripts/debian-packages

# after packages, where both are asked for: they bring python3-venv
venv: $(if $(filter cluster,$(MAKECMDGOALS)),packages)
	@scripts/venv

venv-test: $(if $(filter test,$(MAKECMDGOALS)),packages)
	@scripts/venv test

clean:
	rm -rf .venv benchmarks/out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
