# Two commands do everything: `make demo` and `make test`. Both make .venv where there is none.
PYTHON ?= python3
VENV ?= .venv
INSTALLED = $(VENV)/.installed
# Modules are compiled when they are imported, which few are.
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --no-compile

.PHONY: demo test test-runs docs lint clean

demo: $(INSTALLED)
	$(VENV)/bin/python -m experiments.demo --workdir=runs/demo

# `make test ALL=1` adds those of test-runs, with one queue for both, which keeps both workers busy to its end.
test: lint
	$(VENV)/bin/python -m pytest -n 2 --dist=worksteal $(if $(ALL),-m 'not slow')

# Runs that are killed, stopped and continued, and runs of several processes.
test-runs: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist=worksteal -m 'whole_runs and not slow' tests

# The site, into site/; links that lead nowhere are errors. `mkdocs serve` shows it while you write.
docs: $(INSTALLED)
	$(VENV)/bin/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*project['optional-dependencies']['docs'], sep='\n')" | $(PIP_INSTALL) -r /dev/stdin
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: call make with PYTHON=/path/to/a/newer/python3"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	$(PIP_INSTALL) -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache
