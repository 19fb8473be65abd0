# Airstrip: `make` lists the targets. The lab and the tests need root: sudo make lab
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PACKAGES := python3-venv git openssh-client iproute2 nftables systemd-container mmdebstrap arch-test \
            dnsmasq-base debian-archive-keyring ca-certificates openssl chromium fonts-dejavu-core pebble postgresql
LAB := $(BIN)/python -m lab
PLAYBOOK := $(LAB) run ansible-playbook
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make lock" $(UPGRADE)
UPGRADE ?= --upgrade
EXTRAS := $(basename $(wildcard roles/airflow/files/extras/*.in))
# Airstrip's own package. The lock file pins its hash, so the build is reproducible.
OWN := roles/airflow/files/airstrip
WHEEL := $(BIN)/uv build --quiet --offline --wheel --clear --out-dir build/wheels $(OWN)
# One line per finished test. A folder of tests stays in one lane; they start in the order of CONTRIBUTING.md.
PYTEST := PYTHONUNBUFFERED=1 $(BIN)/pytest --verbose --durations=20
LANES ?= 2
UNIT := AIRFLOW_HOME=$(CURDIR)/build/airflow/home PYTHONPATH=. PYTHONUNBUFFERED=1 build/airflow/bin/pytest --verbose --durations=20 tests/unit \
        --cov=etl --cov-report=term --cov-fail-under=95
IN_LANES := --numprocesses=$(LANES) --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)
# If the environment forbids bytecode, each of some hundred Ansible starts would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: setup
setup: build/packages .venv/done ## Install what the controller, the lab and the tests need

.PHONY: lab
lab: setup $(if $(filter bigquery,$(LAB_WAREHOUSE)),build/bigquery/done) ## Start a machine on the lab's EC2, deploy Airflow to it, collect posts onto S3, mail a report
	@$(BIN)/python -m lab.first_run

.PHONY: lab-check
lab-check: setup ## Run the doctor against the lab
	$(PLAYBOOK) playbooks/check.yml

.PHONY: lab-shell
lab-shell: setup ## Open a shell whose ansible-playbook and AWS tools reach the lab
	@$(LAB) run bash

.PHONY: lab-ssh
lab-ssh: setup ## Log in to the lab's machine
	@$(LAB) ssh

.PHONY: lab-down
lab-down: setup ## Delete the lab
	$(LAB) down

.PHONY: lint
lint: build/docs/done ## Check the style of Python, YAML and Ansible
	$(PYTEST) tests/lint

.PHONY: unit
unit: build/airflow/done ## Run the tests that need no machine
	$(PYTEST) $(IN_LANES) tests/policy tests/aws
	$(UNIT)

.PHONY: e2e
e2e: setup build/airflow/done build/bigquery/done ## Run all tests on machines of their own, the long ones too; one part with ONLY=releases
	$(PYTEST) $(IN_LANES) $(or $(ONLY:%=tests/e2e/%),tests/e2e)

.PHONY: test
test: setup ## Run all tests but the long ones
	@$(MAKE) --no-print-directory --jobs=2 all-lanes unit-alone

# In one pytest run, so that no lane idles while another works.
.PHONY: all-lanes
all-lanes: build/airflow/done build/bigquery/done build/docs/done
	$(PYTEST) $(IN_LANES) -m "not long" tests/lint tests/policy tests/aws tests/e2e

# In Airflow's own virtualenv.
.PHONY: unit-alone
unit-alone: build/airflow/done
	$(UNIT)

.PHONY: gate
gate: build/airflow/done ## Examine DAGs before you ship them, as the server would: SOURCE=FOLDER
	@AIRFLOW_HOME=$(CURDIR)/build/airflow/home PYTHONPATH=$(OWN) build/airflow/bin/python -P -m airstrip.gate --offline $(or $(SOURCE),.)

.PHONY: bench
bench: setup build/airflow/done ## Measure what the README shows, compare, write the tables; other groups with NAME=all, install, memory, tasks, faults, doors, releases, restarts, watch, keep, etl or report
	$(BIN)/python -m tests.bench $(NAME)

.PHONY: soak
soak: setup build/airflow/done build/soak/done ## Test for hours, and print figures; one group with NAME=updates, outages, restarts, examples, receipts, history, restores, move, disks, upgrades, faults, peace, orders, mutants or controllers
	PATH=$(CURDIR)/build/soak/bin:$(PATH) $(BIN)/python -m tests.soak $(NAME)

.PHONY: docs
docs: build/docs/done ## Build the manual as a site: build/site
	$(BIN)/python docs/variables.py
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet --strict

.PHONY: pictures
pictures: setup build/airflow/done ## Take the manual's pictures of the lab: make lab first
	@command -v dot > /dev/null || apt-get install -y -qq --no-install-recommends graphviz
	$(BIN)/python -m tests.pictures

.PHONY: lock
lock: .venv/done ## Choose newer versions and pin them with hashes
	$(LOCK) -o requirements.txt requirements.in
	$(WHEEL)
	$(LOCK) --find-links build/wheels -o roles/airflow/files/requirements.txt roles/airflow/files/requirements.in
	$(LOCK) --find-links build/wheels --override tests/e2e/upgrade/requirements.in \
	  -o tests/e2e/upgrade/requirements.txt roles/airflow/files/requirements.in
	for extra in $(EXTRAS); do $(LOCK) -c roles/airflow/files/requirements.txt -o $$extra.txt $$extra.in; done
	$(LOCK) -o roles/airflow/files/uv.txt roles/airflow/files/uv.in
	$(LOCK) -o lab/bigquery.txt lab/bigquery.in
	$(LOCK) -o tests/soak.txt tests/soak.in
	$(LOCK) -o tests/docs.txt tests/docs.in
	$(LOCK) -o tests/unit/requirements.txt -c roles/airflow/files/requirements.txt \
	  $(EXTRAS:%=-c %.txt) tests/unit/requirements.in

build/packages: Makefile
	@mkdir -p build
	@# Only the lab uses the database server: keep Debian from starting one itself.
	@if ! [ -e /etc/postgresql-common ]; then \
	  mkdir /etc/postgresql-common && echo create_main_cluster = false > /etc/postgresql-common/createcluster.conf; fi
	@if ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  -o Dpkg::Options::=--force-confold $(PACKAGES); fi
	@touch $@

.venv/done: build/packages requirements.txt roles/airflow/files/uv.txt
	python3 -m venv --clear .venv
	$(BIN)/pip install --quiet --require-hashes -r roles/airflow/files/uv.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --require-hashes requirements.txt
	@touch $@

build/airflow/done: .venv/done roles/airflow/files/requirements.txt tests/unit/requirements.txt $(wildcard $(OWN)/*/*.py $(OWN)/*/*/*.py)
	$(WHEEL)
	$(BIN)/uv venv --quiet --clear --python python3 build/airflow
	VIRTUAL_ENV=build/airflow $(BIN)/uv pip sync --quiet --require-hashes \
	  --find-links build/wheels roles/airflow/files/requirements.txt tests/unit/requirements.txt
	@touch $@

# An emulator of BigQuery, whose packages conflict with the lab's.
build/bigquery/done: .venv/done lab/bigquery.txt
	$(BIN)/uv venv --quiet --clear --python python3 build/bigquery
	VIRTUAL_ENV=build/bigquery $(BIN)/uv pip sync --quiet --require-hashes lab/bigquery.txt
	@touch $@

build/docs/done: .venv/done tests/docs.txt
	$(BIN)/uv venv --quiet --clear --python python3 build/docs
	VIRTUAL_ENV=build/docs $(BIN)/uv pip sync --quiet --require-hashes tests/docs.txt
	@touch $@

# Mutation testing, whose packages nothing else needs.
build/soak/done: .venv/done tests/soak.txt
	$(BIN)/uv venv --quiet --clear --python python3 build/soak
	VIRTUAL_ENV=build/soak $(BIN)/uv pip sync --quiet --require-hashes tests/soak.txt
	@touch $@
