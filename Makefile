# `make demo` and `make test` make their own virtual environment; nothing but Python 3.11 to 3.13 and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/ready

.PHONY: demo test lint audit docs bench golden chaos lowest clean

demo: $(READY) demo/pictures  ## a small study on generated pictures, half a minute
	$(BIN)/wastetune run --study demo
	@echo "Look at it with:  $(BIN)/wastetune ui --study demo"

demo/pictures: | $(READY)
	$(BIN)/wastetune data sample demo/pictures --per-class 100

test: $(READY)  ## all tests
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

lint: $(READY)  ## ruff, mypy, and known vulnerabilities of what is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory audit

OSV = https://api.osv.dev

audit: $(READY)  ## known vulnerabilities of what is installed, where the database of them can be reached
	@if $(BIN)/python -c "import urllib.request as ask; ask.urlopen('$(OSV)/v1/vulns/OSV-2020-111', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip-audit --local --skip-editable --vulnerability-service osv --progress-spinner off; \
	else echo "pip-audit: left out, $(OSV) cannot be reached from here"; fi

docs: $(READY)  ## docs/commands.md from the command line's own help, and the site; a broken link is an error
	$(BIN)/python docs/write_commands.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Read it at site/index.html, or with search:  $(BIN)/python -m http.server --directory site"

bench: $(READY)  ## every figure of docs/log.md's speed table, some hours; WASTETUNE_DATA and WASTETUNE_WEIGHTS name real photos and weights
	$(BIN)/python -m pip install --quiet --editable '.[bench,openvino]'
	$(BIN)/python benchmarks/throughput.py trunk
	$(BIN)/python benchmarks/comparison/compare.py --trials 2 --epochs 2 --epochs-per-trial 25
	$(BIN)/python benchmarks/comparison/compare.py --space benchmarks/comparison/depth.toml --trials 2 --epochs 2 --epochs-per-trial 12
	$(BIN)/python benchmarks/comparison/compare.py --backbone resnet50 --trials 2 --epochs 1 --epochs-per-trial 25
	$(BIN)/python benchmarks/comparison/compare.py --only kerastuner,wastetune --trials 100 --seconds 3600 --name hour
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/bank.py

golden: $(READY)  ## renews the golden scores in tests/fixtures/recipes.json, once recipe numbers are raised
	PYTHONPATH=tests $(BIN)/python -m support.recipes $(ARGS)

chaos: $(READY)  ## 2,000 blows on each database, two hours at most; as root also full disks and memory limits
	PYTHONPATH=tests $(BIN)/python -m support.chaos --blows 2000 --minutes 60 --database sqlite
	PYTHONPATH=tests $(BIN)/python -m support.chaos --blows 2000 --minutes 60 --database postgresql

LOWEST = .venv-lowest

# In a folder of its own: the demo in this one may be finished, and its database be a newer MLflow's.
# Only wheels: for a Python that a lowest version is older than, the lowest that was built for it is taken.
lowest:  ## the demo with the lowest version of each dependency that pyproject.toml allows; installs all extras anew
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --only-binary :all: --editable '.[dev]'
	mkdir $(LOWEST)/try
	cd $(LOWEST)/try && ../bin/wastetune data sample demo/pictures --per-class 100 && ../bin/wastetune run --study demo

clean:  ## what make made but for studies: those are in wastetune.db, mlruns and results
	rm -rf $(VENV) $(LOWEST) demo site

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
