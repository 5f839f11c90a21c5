# make demo      the whole road on made-up data: pretrain, fine-tune, compare, report
# make test      formatting, lint, types and the quick tests
# make test-all  the same, and the tests that take minutes
# make sanitize  the CPU kernels at length under the address, undefined behaviour and thread
#                sanitizers
# make docs      the documentation site, into site/
#
# Each makes the virtual environment it needs. Two settings:
#   make PYTHON=python3.12 ...      another Python (3.10, 3.11 or 3.12)
#   make PIP_ARGS="..." ...         further arguments of `pip install`, such as an index with CPU
#                                   builds of torch: on Linux x86 the default one is a CUDA build
PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv

# The environment has the CPU build of fbgemm, which cannot serve a GPU that torch would pick.
export CUDA_VISIBLE_DEVICES :=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS)
CSRC := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
TEST_CSRC := $(shell find tests/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-all sanitize docs lint
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	$(BIN)/python -m pipelines.compare --data synthetic --out runs/demo

# Two files of tests at a time.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

sanitize: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/ops/test_attention_harness.py \
	  tests/ops/test_embedding_harness.py

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CSRC) $(TEST_CSRC)

# The files below only record that a step is done, so that a second run skips it.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "$(PYTHON) is not Python 3.10, 3.11 or 3.12: name one that is, such as"; \
	  echo "  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu:"; \
	  echo "  apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.runtime: $(VENV)/.created requirements/cpu.txt requirements/torchrec.txt setup.py $(CSRC)
	@echo "Installing what torchrec_gr runs on into $(VENV): some minutes, once"
	$(PIP) -r requirements/cpu.txt
	$(PIP) --no-deps -r requirements/torchrec.txt
	@echo "Compiling the ops of csrc/: some minutes"
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo "Installing what the tests need into $(VENV)"
	$(PIP) -r requirements/dev.txt
	@touch $@
