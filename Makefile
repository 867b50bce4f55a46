# make demo           set everything up, then run the main job on this machine
# make demo-cluster   the same on a cluster in a box: real Slurm, RabbitMQ and Postgres on this machine
# make cluster        start such a cluster, and say how to use it
# make cluster-stop   take every trace of it away
# make test           install what the tests need, then run everything, as CI does
# make check          format, lint, types and quick tests
PYTHON ?= python3
export PYTHON
BIN := .venv/bin
# files of tests that run at the same time: most of their time they wait, for leases, time limits, services that restart
AT_ONCE ?= 4
SHORT_ROUND := pyfi-rabbitmq,pyfi-embedded,celery,pool

.PHONY: help demo demo-cluster cluster cluster-stop test check lint venv venv-test packages clean

help:
	@sed -n 's/^# make /  make /p' Makefile

demo: venv
	@$(BIN)/pyfi demo

demo-cluster: packages venv
	@$(BIN)/pyfi demo --cluster

test: packages venv-test lint
	@echo "==> Running all tests; they start the services they need themselves" >&2
	@scripts/all-tests $(AT_ONCE)
	@echo "==> One short round of the benchmarks; docs/benchmarks.md has the full table" >&2
	@$(BIN)/python -m benchmarks --systems $(SHORT_ROUND) --only bulk --only single --only cpu --rounds 1 --seconds 0.7
	@$(BIN)/python -m benchmarks.cluster --only pass --only queries --rounds 1 --seconds 1.5

check: venv-test lint
	@echo "==> Quick tests" >&2
	@$(BIN)/python -m pytest -q -m "not slow and not gpu" --numprocesses 2 tests/unit

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
venv: $(if $(filter cluster demo-cluster,$(MAKECMDGOALS)),packages)
	@scripts/venv

venv-test: $(if $(filter test,$(MAKECMDGOALS)),packages)
	@scripts/venv test

clean:
	rm -rf .venv benchmarks/out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
