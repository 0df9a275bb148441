# make demo   all of DeepSeek-R1 on this machine, in 15 minutes (sets everything up by itself)
# make test   run the tests
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test lint smollm2 clean

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON=$(PYTHON) bash scripts/setup.sh
	@touch $@

demo: $(STAMP)
	@$(BIN)/zero2r1 demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: $(STAMP)
	$(BIN)/ruff check zero2r1 tests benchmarks examples
	$(BIN)/mypy

smollm2: $(STAMP)
	@bash scripts/smollm2.sh

clean:
	rm -rf .venv runs
