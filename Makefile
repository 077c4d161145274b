# Two commands matter: `make demo` and `make test`. Everything else they need, they do themselves.
CORES ?= $(shell nproc 2>/dev/null || echo 2)
CONFIG ?=  # another configuration than config/demo.yaml
# Which lock (cpu, or cuda for a GPU) and which Python (3.11, 3.12 or 3.13): those that are installed, else these.
INSTALLED := $(shell cat .venv/.installed 2>/dev/null)
LOCK ?= $(or $(word 1,$(INSTALLED)),cpu)
FOUND = $(foreach python,python3.11 python3.13 python3.12,$(if $(shell command -v $(python) 2>/dev/null),$(python)))
PYTHON ?= $(or $(word 2,$(INSTALLED)),$(firstword $(FOUND) python3.11))
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: demo study study-explore study-second study-draws study-trainings study-small test test-slow docs lint setup lock

demo: .venv/.installed  ## from a bare machine to the finished tables, figures and report
	@$(if $(CONFIG),lensflow check --configfile $(CONFIG))
	@snakemake --cores $(CORES) $(addprefix --configfile ,$(CONFIG))
	@lensflow show-table --config results/config.json --comparisons results/comparisons.csv
	@echo
	@echo "tables   results/tables/"
	@echo "figures  results/figures/"
	@echo "report   results/report.html"

STUDY = config/study/primary.yaml
study: .venv/.installed  ## the primary claims on the test split; what they can show: docs/study (dev split, lensflow power)
	@snakemake --cores $(CORES) --configfile $(STUDY) --directory study
	@lensflow show-table --config study/results/config.json --comparisons study/results/comparisons.csv | tee study/verdict.txt
	@tail -n 5 study/verdict.txt > docs/study/verdict.txt
	@cp $(addprefix study/results/,claims.csv $(foreach name,verdict.md main.md main.csv cost.md cost.csv,tables/$(name))) docs/study
	@cp $(foreach name,outcomes effects,study/results/figures/gemma-3-270m.multilingual/$(name).svg) docs/study

study-explore: .venv/.installed  ## exploratory runs in the same folder: the parts of Lens, doses, steering, prompts; docs/study/explore.md
	@snakemake --cores $(CORES) --configfile $(STUDY) config/study/explore.yaml --directory study
	@python -m performance.explore study/results docs/study/explore.md
	@cp study/results/sweeps.csv $(foreach name,main cost,$(foreach form,md csv,study/results/tables/$(name).$(form))) docs/study/explore

study-second: .venv/.installed  ## an exploratory run of a second model
	@snakemake --cores $(CORES) --configfile config/study/second.yaml --directory study-second
	@lensflow show-table --config study-second/results/config.json --comparisons study-second/results/comparisons.csv \
		| tail -n 4 > docs/study/second/verdict.txt
	@cp $(foreach name,main cost,$(foreach form,md csv,study-second/results/tables/$(name).$(form))) docs/study/second
	@cp study-second/results/figures/smollm2-135m-instruct.multilingual/outcomes.svg docs/study/second

study-draws: .venv/.installed  ## exploratory runs of Lens along other directions and with other training items; docs/study/draws
	@snakemake --cores $(CORES) --configfile $(STUDY) config/study/draws.yaml --directory study
	@cp $(foreach name,main versus cost,$(foreach form,md csv,study/results/tables/$(name).$(form))) docs/study/draws
	@grep -e ^backbone -e ,usable, study/results/scores.csv > docs/study/draws/usable.csv

study-trainings: .venv/.installed  ## exploratory runs of other trainings, doses and prompts
	@snakemake --cores $(CORES) --configfile $(STUDY) config/study/trainings.yaml --directory study

study-small: .venv/.installed  ## every part of the study in about ten minutes: CI runs it once a week
	@snakemake --cores $(CORES) --configfile $(STUDY) config/study/small.yaml --directory study-small
	@python -m performance.explore study-small/results study-small/explore.md

test: .venv/.installed  ## unit, workflow and end-to-end tests
	@OMP_NUM_THREADS=1 pytest -n $(CORES) --maxprocesses 4

test-slow: .venv/.installed  ## what takes minutes: every fault, a real cluster, LaTeX, the report in a browser
	@pytest -m slow

docs: .venv/.installed  ## the documentation site, in site/; fails where a link leads nowhere
	@python performance/reference.py
	@python performance/method_pages.py
	@uv tool run --quiet --from zensical==0.0.73 zensical build --strict

lint: .venv/.installed  ## style, types, workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

setup:  ## the environment alone; for a GPU: make setup LOCK=cuda
	@PYTHON=$(PYTHON) envs/setup.sh $(LOCK)

.venv/.installed: envs/$(LOCK).lock envs/setup.sh pyproject.toml
	@PYTHON=$(PYTHON) envs/setup.sh $(LOCK)

ifneq ($(INSTALLED),$(LOCK) $(PYTHON))
.PHONY: .venv/.installed  # another lock or Python is installed: make installs this one
endif

lock:  ## resolve the requirements again; the CUDA lock keeps the CPU one's versions where it can
	@envs/lock.sh
