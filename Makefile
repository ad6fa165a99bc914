# make help lists the targets. Variables: METHODS=ssd,retrain MODEL=resnet18 SEEDS=3 PROTOCOL=strict PROFILE=quick WORKERS=3 ARGS='key=value …'
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

comma := ,
empty :=
space := $(empty) $(empty)
seeds = $(if $(findstring $(comma),$(1)),$(1),$(or $(subst $(space),$(comma),$(shell seq 0 $$(($(1) - 1)))),\
	$(error Expected SEEDS to be a number of seeds, or a list of at least two such as 0,1, but got $(1))))
KNOWN := METHODS MODEL SEEDS PROTOCOL PROFILE WORKERS ARGS SEARCH
UNKNOWN := $(foreach name,$(filter-out $(KNOWN) PYTHON VENV PY,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
$(if $(strip $(UNKNOWN)),$(error Expected variables among $(KNOWN), but got $(strip $(UNKNOWN))))
OVERRIDES = $(if $(METHODS),method=$(METHODS)) $(if $(MODEL),model=$(MODEL)) \
	$(if $(SEEDS),method_seed=$(call seeds,$(SEEDS))) $(if $(PROTOCOL),protocol=$(PROTOCOL)) \
	$(if $(PROFILE),profile=$(PROFILE)) $(ARGS)
RUN = $(PY) -m benchmark.run $(if $(WORKERS),launcher=local hydra.launcher.workers=$(WORKERS))
REPORT = $(PY) -m benchmark.report
EXPERIMENTS = table1 table2 table3 table5 table6 selectivity figure2 requests ablation

.PHONY: help setup demo search test test-all test-gpu lint format data verify check-latex speed clean reproduce-all claims answer report test-report
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z%-]+[a-z0-9%-]*:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'
	@sed -n '1s/^# make help lists the targets. /  /p' Makefile

setup: $(READY)  ## make .venv with the pinned versions (the other targets do it when needed)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[suite,cluster,dev]'
	touch $@

demo: WORKERS ?= 2
demo: $(READY)  ## the paper's methods on the embedded digits, three tasks: a table in minutes
	$(RUN) experiment=demo $(OVERRIDES)
	$(REPORT) table=demo out=runs/tables/demo $(OVERRIDES)

reproduce-%: $(READY)  ## one table: table1 … table6, selectivity, ablation, field, ulira, e.g. reproduce-table2 PROFILE=quick
	$(RUN) experiment=$* $(OVERRIDES)
	$(REPORT) table=$* $(OVERRIDES)

reproduce-figure%: $(READY)  ## one figure of the paper, e.g. reproduce-figure2 PROFILE=quick
	$(RUN) experiment=figure$* $(OVERRIDES)
	$(REPORT) figure=$* $(OVERRIDES)

reproduce-requests: $(READY)  ## forget requests one after the other, e.g. reproduce-requests PROFILE=quick
	$(RUN) experiment=requests $(OVERRIDES)
	$(REPORT) requests $(OVERRIDES)

reproduce-all: $(addprefix reproduce-,$(EXPERIMENTS)) claims answer reproduce-table4  ## everything; table4, whose data come from Kaggle, last
	$(MAKE) claims answer

claims: $(READY)  ## the paper's claims beside the tables in results/
	$(REPORT) claims $(if $(PROTOCOL),protocol=$(PROTOCOL)) $(if $(PROFILE),profile=$(PROFILE))

answer: $(READY)  ## who is closest to the retrained model, and how sure: answer PROFILE=quick
	$(REPORT) answer=$(or $(PROFILE),full)

report: $(READY)  ## results/index.html: all of results/ on one page that needs no network
	$(REPORT) page

search: $(READY)  ## hyper-parameters, e.g. search SEARCH=ssd ARGS='dataset=cifar20 search.n_trials=50'
	$(if $(WORKERS),$(error Expected no WORKERS for a search, whose trials run one after the other; start the same command several times to share them))
	$(PY) -m benchmark.search search=$(or $(SEARCH),ssd) $(OVERRIDES)

data: $(READY)  ## write the CIFAR array files into $UNLEARN_DATA_DIR or data/
	$(PY) -m scripts.download_data

verify: $(READY)  ## check that every committed table follows from its committed records
	$(PY) -m scripts.verify_results

check-latex: $(READY)  ## compile every committed LaTeX table in the width of a page (needs pdflatex)
	$(PY) -m scripts.check_latex

speed: $(READY)  ## seconds of each step beside other implementations, e.g. speed ARGS='width=64 dataset=cifar100'
	$(PY) -m scripts.speed $(ARGS)

test: $(READY)  ## the fast tests, no network
	$(PY) -m pytest -n auto

test-all: $(READY)  ## the slow tests too
	$(PY) -m pytest -n auto -m 'not gpu and not browser'

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(PY) -m pytest -m gpu

$(VENV)/.report-test: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[report-test]'
	touch $@

test-report: $(VENV)/.report-test  ## the page in a real browser; installs Chromium, Playwright and axe if needed
	PY=$(abspath $(PY)) tests/browser/setup.sh
	. .browser/env && $(PY) -m pytest -m browser tests/browser

lint: $(READY)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)  ## let ruff rewrite the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove caches; records, checkpoints and data stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
