# `make demo` shows it, `make test` checks it, `make slow` checks what takes its time (both are needed for a change),
# `make multihost` runs it on hosts of one machine (Linux, root, iproute2), `make faults` attacks it for an hour.
# `make docs` makes a site of docs/ in build/site. Each sets up .venv first, and again when the pins change. `make bench`
# measures for two hours, peers included.

PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

.PHONY: browser demo test lint types unit slow multihost faults docs bench clean

demo: .venv/installed
	$(BIN)/python docs/demo/demo.py $(DEMO)

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	$(BIN)/pytest

slow: .venv/installed
	$(BIN)/pytest -m slow

multihost: .venv/installed
	$(BIN)/pytest -m multihost -rP tests/multihost

faults: .venv/installed
	$(BIN)/python -m tests.faults --faults 200 --seed 7

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

MINUTES ?= 150

bench: .venv/installed
	$(BIN)/python -m benchmarks --minutes $(MINUTES)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Chromium, for the tests of the report's page; Debian, as root. Without it they are skipped.
browser:
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core

clean:
	rm -rf .venv build
