# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process, and memory that was freed is used again: otherwise pictures' tensors are new pages each time.
QUICKLY := OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=2147483648 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=67108864

.PHONY: demo test docs figures dist changes
demo: .venv/installed
	$(BIN)/conceptguard demo --out out/demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(QUICKLY) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Wheels and sdists for a release, each wheel built from its sdist, so that nothing left over in the checkout gets in.
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m build --no-isolation --outdir dist conceptguard-models
	@wc -c dist/* | awk '$$2 != "total" { printf "%s: %.1f MB\n", $$2, $$1 / 1e6 }'

# What the next release will say.
changes: .venv/installed
	$(BIN)/towncrier build --draft --version unreleased

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
	$(BIN)/mypy > /dev/null || true  # reads what is installed, once: what it says of our own files is for `make test`
	touch $@
