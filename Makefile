# `make reproduce` and `make test` work right after `git clone`; each installs what it needs, once, into .venv.
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST := $(BIN)/python -m pytest -n 2

.PHONY: help reproduce test test-slow docs bench lint readme clean
help:
	@echo "make reproduce    run every study (ARGS='--size full' for more) and write a report under runs/"
	@echo "make test         run the tests          make test-slow   run the long ones"
	@echo "make lint         ruff and pyright       make docs        build docs/_build/html"
	@echo "make bench        run the benchmarks     make readme      refresh the README's claims table"

reproduce: $(VENV)/.installed-studies
	$(BIN)/gleanings reproduce $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow --timeout 3600 $(ARGS)

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed-dev
	for script in benchmarks/[!_]*.py; do $(BIN)/python "$$script" $(ARGS) || exit 1; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

readme: $(VENV)/.installed-studies
	$(BIN)/python -m gleanings._readme README.md results $(ARGS)

clean:
	rm -rf $(VENV) .cache docs/_build

# The first of these that runs and can make a virtual environment; PYTHON=... chooses another.
$(BIN)/python:
	@for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "creating $(VENV) with $$("$$candidate" --version)"; \
	    exec "$$candidate" -m venv $(VENV); \
	  fi; \
	done; echo "error: no Python 3.11 or newer with its venv module; install one or set PYTHON=/its/path" >&2; exit 1

# `dev` holds everything that `studies` needs, so it makes both stamps.
$(VENV)/.installed-studies $(VENV)/.installed-dev: $(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gleanings[$*] into $(VENV) (once)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $(VENV)/.installed-studies $@
