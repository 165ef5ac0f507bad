# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process, and memory that was freed is used again: otherwise pictures' tensors are new pages each time.
QUICKLY := OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=2147483648 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=67108864

.PHONY: demo test
demo: .venv/installed
	$(BIN)/conceptguard demo --out out/demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(QUICKLY) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/mypy > /dev/null || true  # reads what is installed, once: what it says of our own files is for `make test`
	touch $@
