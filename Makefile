PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test fuzz soak audit check clean

setup:  ## .venv with this project, vLLM for this machine, and the tools; about a second when nothing changed
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) on this machine" >&2; \
	  echo "hint: install Python 3.11 or newer, or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/ttc demo

test: setup
	@$(BIN)/python -m pytest

fuzz: setup  ## long random tests of all that is read; FUZZ_S seconds for each of the coverage-guided ones
	TTC_FUZZ=long $(BIN)/python -m pytest --timeout 0 tests/fuzz
	@for target in answers journal; do $(BIN)/python tests/fuzz/guided.py $$target --seconds $${FUZZ_S:-300} || exit 1; done

soak: setup  ## hours: every fault of docs/faults.md on the shipped pair, thirty kills, an hour at full load
	@$(BIN)/python -m pytest -m soak

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tools/setup.py
	$(BIN)/mypy tools/cli_docs.py
	$(BIN)/mypy tools/audit.py
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/python tools/audit.py

audit: setup  ## known flaws of the installed packages; says so where the advisories cannot be reached
	@$(BIN)/python tools/audit.py

clean:  ## everything that can be made again; results/ stays
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
