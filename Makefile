# Two commands matter: `make demo` and `make test`. Everything else they need, they do themselves.
PYTHON ?= python3.11
CORES ?= $(shell nproc 2>/dev/null || echo 2)
CONFIG ?=  # another configuration than config/demo.yaml
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: demo test lint setup lock

demo: .venv/.installed  ## from a bare machine to the finished tables, figures and report
	@snakemake --cores $(CORES) $(addprefix --configfile ,$(CONFIG))
	@lensflow show-table --config results/config.json --comparisons results/comparisons.csv
	@echo
	@echo "tables   results/tables/{summary,main,ablation,cost}.{md,tex,csv}"
	@echo "figures  results/figures/"
	@echo "report   results/report.html"

test: .venv/.installed  ## unit, workflow and end-to-end tests
	@pytest

lint: .venv/.installed  ## style, types, workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

setup: .venv/.installed  ## the environment alone

.venv/.installed: envs/cpu.lock envs/setup.sh pyproject.toml
	@PYTHON=$(PYTHON) envs/setup.sh

lock:  ## resolve envs/requirements.in again
	uv pip compile envs/requirements.in --override envs/overrides.txt --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --torch-backend cpu --no-header --no-annotate --no-emit-find-links \
	  --output-file envs/cpu.lock
