# make quickstart   from nothing to a trained model: set-up, text, training, runs/quickstart/report.json
# make quickstart-chat    from nothing to a model that answers: conversations, training, runs/quickstart-chat/report.json
# make check        ruff, the layout, and the tests that start no ranks or commands: a minute or two
# make test         all but the longest, two at once: under 12 minutes on 2 cores, without a GPU
# make soak         the longest tests: many kills, many launches
# make gpu          the tests that need a GPU, which skip themselves where there is none
# make lint         ruff
# INPUT=file.jsonl make quickstart         on your own documents, one JSON object with "text" a line
# INPUT=file.jsonl make quickstart-chat    on your own conversations, one JSON object with "messages" a line

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# the newest Python here that the pins run on
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
# files of tests side by side, the tests of one file after each other; CORES=4 where there are more
CORES ?= 2
TOGETHER = -n $(CORES) --dist loadfile --no-loadscope-reorder
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: setup quickstart quickstart-chat check test soak gpu lint clean
setup: $(READY)

$(READY): constraints.txt setup.py launch/setup.sh
	@VENV=$(VENV) PYTHON="$(PYTHON)" bash launch/setup.sh
	@touch $(READY)

quickstart: setup
	@$(PY) launch/quickstart.py $(if $(INPUT),--input "$(INPUT)")

quickstart-chat: setup
	@$(PY) launch/quickstart.py --chat $(if $(INPUT),--input "$(INPUT)")

check: lint
	$(PY) -m pytest -q tests/test_layout.py
	$(PY) -m pytest -q $(TOGETHER) -m "not slow and not soak"

test: setup
	$(PY) -m pytest -q $(TOGETHER)

soak: setup
	$(PY) -m pytest -m soak

gpu: setup
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} DS_ACCELERATOR=$$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu) $(PY) -m pytest -q -m gpu

lint: setup
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
