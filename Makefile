# Two commands set everything up: make demo, make test.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests run side by side: threads that wait leave the cores to the others.
test slow: export OMP_WAIT_POLICY := PASSIVE
test slow: export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test check format lint types layers slow examples docs figures calibration evidence wheel clean

demo: $(STAMP)
	$(BIN)/scaling demo --study demo

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(STAMP)

test: $(STAMP)
	$(BIN)/python -m pytest

# A third process, since much of what is slow waits: for Slurm, for a killed process to have got somewhere.
slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 3

check: format lint types layers test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

examples: $(STAMP)
	set -e; for script in examples/*.py; do echo "$$script"; $(BIN)/python "$$script" >/dev/null; done

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

figures: $(STAMP)
	$(BIN)/python -m tests.gallery

# The page of sealed predictions, its picture, and what the READMEs say of them.
calibration: $(STAMP)
	$(BIN)/python -m tests.record --write

# One of the sealed studies again, from its recipe: make evidence STUDY=reach-10-wikitext-2
evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence $(STUDY) --verify

wheel: $(STAMP)
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf $(VENV) build dist site *.egg-info
