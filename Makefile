# Every command that the README, CONTRIBUTING.md and CI name. `make` alone lists them.
# Each target builds .venv itself, and again when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=
NOTEBOOKS := $(patsubst docs/%,runs/docs/%,$(wildcard docs/notebooks/*.ipynb))

# machine, subjects, simulate and the pages are parts of benches, memory comes last; families, defenses, record, portfolio and search_efficiency take long.
BENCHES := $(filter-out bench.machine bench.subjects bench.families_page bench.families bench.defenses_page bench.defenses bench.record bench.portfolio bench.search_efficiency bench.search_page bench.search_real bench.cluster_sim bench.cluster_page bench.driver_cost bench.fake_cluster bench.screenshots bench.estimate bench.replications bench.replications_page bench.simulate bench.population bench.memory,$(patsubst bench/%.py,bench.%,$(sort $(wildcard bench/*.py))))

.DEFAULT_GOAL := help
.PHONY: help install audit test test-slow lint format docs bench docs-attacks docs-defenses clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Options go through ARGS, for example: make audit ARGS=--resume"

install: $(STAMP) ## build .venv with the tested versions (the other targets do it when needed)

audit: $(STAMP) ## audit two safeguards of the fable testbed; the result goes to runs/audit
	$(BIN)/weakspot audit --out runs/audit $(if $(findstring --resume,$(ARGS)),,--overwrite) $(ARGS)

test: $(STAMP) ## run the tests (a few minutes on two cores)
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP) ## run the tests that need the chat model or many minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP) ## put the code in the one format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(STAMP) $(NOTEBOOKS) ## build the documentation into site/, with its notebooks run (once, a minute)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(STAMP) ## run the benches; each prints the machine, the versions and its command
	@for module in $(BENCHES) bench.memory; do \
		echo "== $(BIN)/python -m $$module"; $(BIN)/python -m $$module || exit 1; echo; \
	done

docs-attacks: $(STAMP) ## measure every attack family on fable where that is missing (an hour), and write docs/attacks.md
	$(BIN)/python -m bench.families

docs-defenses: $(STAMP) ## measure every defense on fable where that is missing (an hour), and write docs/defenses.md
	$(BIN)/python -m bench.defenses

clean: ## remove what building and testing left; results under runs/ and .venv stay
	rm -rf build dist site runs/docs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./.git -o -path ./runs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# What the site shows of a notebook: the same cells, with what they gave.
runs/docs/notebooks/%.ipynb: docs/notebooks/%.ipynb | $(STAMP)
	@echo "running $<"
	@$(BIN)/python docs/hooks/execute.py $< $@

# torch comes first and pinned: asked for by its bare name, an index may answer with a newer build and gigabytes of CUDA
# packages. -qq prints errors only. The stamp is written last, so that a broken install is begun again.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing weakspot into $(VENV) (the first time takes a few minutes)"
	@$(BIN)/python -c '' 2>/dev/null && $(PIP) --version >/dev/null 2>&1 || { $(make_venv); }
	@$(PIP) install -qq "pip>=23.1" "setuptools>=77"
	@$(PIP) install -qq -c constraints.txt torch==2.13.0
	@$(PIP) install -qq -c constraints.txt -e ".[dev,docs,smollm2,trl]"
	@touch $@

# Debian's python3 has no ensurepip unless python3-venv is installed; the pip of $(PYTHON), or virtualenv, can help out.
define make_venv
rm -rf $(VENV); $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	|| { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -qq pip; } \
	|| { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV); } \
	|| { echo "cannot make $(VENV): install python3-venv, or name another Python with: make PYTHON=python3.11" >&2; exit 1; }
endef
