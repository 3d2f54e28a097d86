# make serve   set up and serve the embedded default        make test   set up and pass the tests
CONFIG ?= configs/gateway/default.yaml
PORT ?= 8080
WORKERS ?= 1
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY := PASSIVE
PACKAGES := mantlet defenses detectors serving redteam

.PHONY: serve test fmt lint types check cov bench-serving ci wheel

serve: .venv/served
	$(BIN)/mantlet serve $(CONFIG) --set listen.port=$(PORT) --set listen.workers=$(WORKERS)

test: .venv/tested lint types
	$(BIN)/python -m pytest -q

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/served: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	touch $@

.venv/tested: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[onnx,dev]'
	touch $@ .venv/served

fmt: .venv/tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/tested
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(BIN)/lint-imports --no-cache | tail -n 1

types: .venv/tested
	$(BIN)/mypy

cov: .venv/tested
	$(BIN)/python -m pytest -q --cov --cov-report=term-missing

bench-serving: .venv/tested
	$(BIN)/python -m tests.benchmarks.serving --out docs/results/serving.json

ci: test wheel

wheel: .venv/tested
	$(BIN)/python -m pytest -q tests/packaging --run-wheel
