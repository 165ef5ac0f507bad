# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs figures
demo: .venv/installed
	$(BIN)/conceptguard demo --out out/demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# The documentation, in out/site: figures as their files say, pages from the code, then a strict build.
docs: .venv/installed
	$(BIN)/python -m tools.figures render
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs the commands of figures anew, and takes hours: those without a file, or FIGURES="eval gates"; see tools.figures.
figures: .venv/installed
	$(BIN)/python -m tools.figures run $(FIGURES)
	$(BIN)/python -m tools.figures render

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
