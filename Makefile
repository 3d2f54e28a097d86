# make serve   set up and serve the embedded default        make test   set up and pass the tests
CONFIG ?= configs/gateway/default.yaml
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
export OMP_WAIT_POLICY := PASSIVE

.PHONY: serve test fmt lint types cov docs wheel bench-serving bench-ownership bench-detection bench-ini bench-protection bench-watermark bench-gan bench-smoke bench-i2i bench-explanations ci

serve: .venv/served
	$(BIN)/mantlet serve $(CONFIG) $(if $(PORT),--set listen.port=$(PORT)) $(if $(WORKERS),--set listen.workers=$(WORKERS))

test: .venv/tested lint types
	$(BIN)/python -m pytest -q -m "not external"

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/served: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[onnx,explain]'
	touch $@

.venv/tested: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[onnx,explain,dev]'
	touch $@ .venv/served

fmt: .venv/tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/tested
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/codespell
	$(BIN)/hadolint --failure-threshold style Dockerfile
	@$(BIN)/lint-imports --no-cache --no-logo > .venv/imports || { cat .venv/imports; exit 1; }

types: .venv/tested
	$(BIN)/mypy

cov: .venv/tested
	$(BIN)/python -m pytest -q --cov --cov-report=term-missing

docs: .venv/tested  # writes the generated parts of docs/ anew
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.pictures

wheel: .venv/tested
	$(BIN)/python -m build --wheel --no-isolation

bench-serving: .venv/tested
	$(BIN)/python -m tests.benchmarks.serving --out docs/results/serving.json

bench-ownership: .venv/tested  # the folder of bench-detection; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.ownership --out docs/results/ownership.json

bench-detection: .venv/tested  # MANTLET_DATA is the folder of the pictures; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.detection.bench --out docs/results/detection.json

bench-ini: .venv/tested  # as above; goes on where it stopped, and writes what it found into the model card
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.ini --out docs/results/ini.json

bench-protection: .venv/tested  # the same folder; --only mnist/default and the like in ONLY, hours without
	OMP_NUM_THREADS=1 $(BIN)/mantlet bench configs/bench/protection.yaml --only '$(ONLY)' --out docs/results/protection.json

bench-i2i: .venv/tested  # the same folder; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.translation.bench --out docs/results/i2i.json --picture docs/pictures/i2i.png

bench-gan: .venv/tested  # the same folder; goes on where it stopped; SMOKE=1 takes a minute, with what the repository ships
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.gan.bench $(if $(SMOKE),--smoke --data tests/data --families mnist-test --seeds 0 --work .mantlet/gan-smoke --out .mantlet/gan-smoke/gan.json,--out docs/results/gan.json --picture docs/pictures/gan.png)

bench-watermark: .venv/tested .venv/rivals  # the same folder; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.watermarks.bench --out docs/results/watermark.json

.venv/rivals: constraints.txt | .venv/tested  # without what the package asks for: a window system, a second torch
	$(PIP) --no-deps invisible-watermark opencv-python-headless PyWavelets
	touch $@

bench-explanations: .venv/tested  # the same folder; goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m redteam.explanations.bench --out docs/results/explanations.json

bench-smoke: .venv/tested  # two minutes, with what the repository ships; has floors
	OMP_NUM_THREADS=1 $(BIN)/mantlet bench configs/bench/smoke.yaml --data tests/data --out .mantlet/smoke.json

ci: .venv/tested lint types  # with the tests that need PyPI; the build of the wheel is one of them
	$(BIN)/python -m pytest -q
