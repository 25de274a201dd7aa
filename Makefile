# make quickstart   from nothing to a trained model: set-up, text, training, runs/quickstart/report.json
# make test         set-up, then the test suite (no GPU needed, under 25 minutes on 2 cores)
# make soak         the long tests: many kills, many launches
# make lint         ruff
# INPUT=file.jsonl make quickstart    on your own documents, one JSON object with "text" a line

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# the newest Python here that the pins run on
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: setup quickstart test soak lint clean
setup: $(READY)

$(READY): constraints.txt setup.py launch/setup.sh
	@VENV=$(VENV) PYTHON="$(PYTHON)" bash launch/setup.sh
	@touch $(READY)

quickstart: setup
	@$(PY) launch/quickstart.py $(if $(INPUT),--input "$(INPUT)")

test: setup
	$(PY) -m pytest

soak: setup
	$(PY) -m pytest -m soak

lint: setup
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
