# `make demo ARGS="... --json"` prints JSON and nothing else on stdout: everything about installing goes to stderr.

.DEFAULT_GOAL := help
.PHONY: help install test check format screenshot demo chaos bench bench-memory bench-scale bench-architectures fuzz clean
MAKEFLAGS += --no-print-directory

VENV := .venv
INSTALLED := $(VENV)/.installed
# With the compiled part, where there is a Rust to build it with.
READY := $(VENV)/.ready
CHECK_PYTHON := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
# A name on the PATH may be a version manager's shim that only complains: the first that works is taken.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	if $$name -c '$(CHECK_PYTHON)' >/dev/null 2>&1; then echo $$name; break; fi; done)

# Tests that run at the same time: most of them wait most of the time. With 0 pytest runs them itself, as --pdb needs.
# Who is done takes over from the others: else one of them had the slowest to itself, for a third of the time.
JOBS ?= 6

help:
	@echo 'make install             an environment with everything, in $(VENV)'
	@echo 'make test  ARGS=...      the tests; pytest arguments in ARGS, as -m "not kafka", -m slow; JOBS=0: one after the other'
	@echo 'make check               formatting, lint, types, layers'
	@echo 'make demo  ARGS=...      the whole system on embedded parts'
	@echo 'make screenshot          the picture of the dashboard in the README, made anew (needs Chromium)'
	@echo 'make chaos ARGS=...      workers disturbed on a real Kafka; --quick, --breakages, --help'
	@echo 'make bench ARGS=...      how fast it is beside its peers; --quick, --write, --help'
	@echo 'make bench-memory ARGS=... how much memory a worker takes'
	@echo 'make bench-scale ARGS=... how its cost changes as the work grows; --quick, --only, --write, --help'
	@echo 'make bench-architectures ARGS=... the four architectures of the migration path; --quick, --write, --help'
	@echo 'make fuzz  ARGS=...      the decoder and the fold, fuzzed; --runs N, --seed N'
	@echo 'make format              format and fix what can be fixed'
	@echo 'make clean               remove everything that was made here'

install: $(READY)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or later, with venv, is needed (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing into $(VENV) ...' >&2
	@$(PYTHON) -m venv --clear $(VENV) >&2
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[embedded,dev,architectures]' >&2
	@touch $@

$(READY): $(INSTALLED) $(wildcard native/*.toml native/src/*.rs)
	@if cargo --version >/dev/null 2>&1; then \
		echo 'Compiling feedback_native ...' >&2; \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check ./native >&2 \
			|| echo 'feedback_native could not be built: events are counted in Python, which is slower.' >&2; \
	else \
		echo 'No Rust here (cargo): events are counted in Python, which is slower.' >&2; \
	fi
	@touch $@

test: $(READY)
	@$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal -m 'not slow' $(ARGS)

check: $(READY)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@if cargo --version >/dev/null 2>&1; then cd native && cargo fmt --check && cargo clippy --quiet -- --deny warnings; fi

format: $(READY)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@if cargo --version >/dev/null 2>&1; then cd native && cargo fmt; fi

demo: $(READY)
	@$(VENV)/bin/feedback-app demo $(ARGS)

screenshot: $(READY)
	@SCREENSHOT=docs/figures/dashboard.png $(VENV)/bin/python -m pytest -q tests/functional/test_screenshot.py

chaos: $(READY)
	@$(VENV)/bin/python -m tests.chaos $(ARGS)

bench bench-scale bench-architectures: $(READY)
	@$(VENV)/bin/python -c 'import matplotlib' 2>/dev/null || $(VENV)/bin/python -m pip install --quiet \
		--disable-pip-version-check --constraint constraints.txt --editable '.[bench]' >&2
	@$(VENV)/bin/python -m benchmarks.$(if $(filter bench,$@),compare,$(@:bench-%=%)) $(ARGS)

bench-memory: $(READY)
	@$(VENV)/bin/python -m benchmarks.memory $(ARGS)

fuzz: $(READY)
	@$(VENV)/bin/python -c 'import atheris' 2>/dev/null || $(VENV)/bin/python -m pip install --quiet \
		--disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]' >&2
	@$(VENV)/bin/python -m tests.fuzz.decoder $(ARGS)

clean:
	@rm -rf $(VENV) native/target native/Cargo.lock .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
