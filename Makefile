# `make` alone prints the targets. Each sets up what it needs: .tools (lints
# and builds) and .venv (TensorFlow, and the package installed from its wheel).
#
#   make test ARGS="-k mask -x"    more arguments for pytest
#   make test JOBS=0               tests in one process, not two
#   make test TF=2.15.1            another TensorFlow, in .venv-2.15.1
#   make test TF=2.15.1 FLOW=v2    its graphs with control flow v2
#   make test TF=2.21.0-keras3     2.16 and later without tf_keras
#   make test TF=1.13.2 PY=3.6     on that Python, in .venv-1.13.2-py3.6
#   make test PYTHON=/path/to/it   the Python to set up with
#   make test-all ARGS="1.12 intel"   only lines that contain one of these

# 1.13.1; where there is no Python 3.7 or 3.6, the newest tested one.
TF =
PY =
FLOW = v1
JOBS = 2
ARGS =
export PYTHON FLOW

VENV := .venv$(TF:%=-%)$(PY:%=-py%)
PYTHON_LINT := .tools/env/bin/python
PACKAGED := $(wildcard awd_lstm_tf/*.py) \
    setup.py pyproject.toml MANIFEST.in README.md LICENSE
# With the environment variables of its TensorFlow (tools/setup.sh).
RUN = env $$(cat $(VENV)/.environment) "$(CURDIR)/$(VENV)/bin/python"
FIGURES = benchmarks/results/tensorflow-$$(cat $(VENV)/.tensorflow).json
# From a folder where the source tree is out of sight; --installed has
# tests/conftest.py insist on it.
PYTEST = settings=$$(cat $(VENV)/.environment); work=$$(mktemp -d) && \
    trap 'rm -rf "$$work"' EXIT && cd "$$work" && \
    env $$settings "$(CURDIR)/$(VENV)/bin/python" -m pytest \
    "$(CURDIR)/tests" --installed -n $(JOBS) -p no:cacheprovider

.PHONY: help demo test check test-all slow runtimes bench docs api parity \
    lint format wheel gpu-ops clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      set up (2 min), and train a language model (8 min)'
	@echo 'make test      set up (3 min), lint, build, and test it (4 min)'
	@echo 'make check     the tests alone, without the lint'
	@echo 'make test-all  the tests on all of tools/versions.txt (1 hour)'
	@echo 'make slow      the same tests, but those marked slow (50 min)'
	@echo 'make runtimes  exported models, in the runtimes of today (10 min)'
	@echo 'make bench     time and memory of all layers (20 min; TORCH: a'
	@echo '               Python that has PyTorch: that of PyTorch, too)'
	@echo 'make gpu-ops   which ops of a step have kernels for a GPU (1 min)'
	@echo 'make docs      README and docs/ as a site, in site/ (seconds)'
	@echo 'make api       docs/api.md from the docstrings (seconds)'
	@echo 'make parity    the recipe beside that of TORCH (1 hour)'
	@echo 'make lint      ruff: rules and format (seconds)'
	@echo 'make format    ruff: mend what it can (seconds)'
	@echo 'make wheel     sdist and wheel in dist/, checked by twine (1 min)'
	@echo 'make clean     remove all that make made'
	@sed -n 's/^#   make/make/p' Makefile

demo: $(VENV)/.installed
	@$(RUN) examples/language_model.py $(ARGS)

test: lint docs wheel check

check: $(VENV)/.installed
	@$(MAKE) -s .venv-runtimes/.ready || echo 'Tests in runtimes are skipped'
	@$(PYTEST) $(ARGS)

test-all: dist/.built
	@$(PYTHON_LINT) tools/test_all.py --jobs $(JOBS) $(ARGS)

slow: $(VENV)/.installed .venv-runtimes/.ready
	@$(PYTEST) -m slow $(ARGS)

runtimes: $(VENV)/.installed .venv-runtimes/.ready
	@$(PYTEST) -m 'slow or not slow' \
	    -k 'runtimes or random_nets or tflite_nets' $(ARGS)

.venv-runtimes/.ready: tools/runtimes.sh
	@tools/runtimes.sh && touch $@

# The matmul limit is among the rows of step_time.py.
bench: $(VENV)/.installed
	@$(RUN) benchmarks/step_time.py --sizes small medium paper \
	    $(TORCH:%=--torch-python %) --json $(FIGURES)
	@$(RUN) benchmarks/memory.py --json $(FIGURES)
	@$(RUN) benchmarks/report.py $(FIGURES)

gpu-ops: $(VENV)/.installed
	@$(RUN) tools/gpu_ops.py $(ARGS)

docs: .tools/.lint
	@$(PYTHON_LINT) -m mkdocs build --quiet

api: $(VENV)/.installed
	@$(RUN) tools/api_reference.py

parity: $(VENV)/.installed
	@$(RUN) benchmarks/parity.py --torch "$(TORCH)" $(ARGS)

lint: .tools/.lint
	@$(PYTHON_LINT) -m ruff check --quiet --output-format concise .
	@$(PYTHON_LINT) -m ruff format --quiet --check .

format: .tools/.lint
	@$(PYTHON_LINT) -m ruff check --quiet --fix .
	@$(PYTHON_LINT) -m ruff format .

wheel: dist/.built .tools/.lint
	@$(PYTHON_LINT) -m twine check --strict dist/*

clean:
	rm -rf .tools .venv* .python dist build site *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.tools/.build: tools/setup.sh tools/find_python.sh tools/build.txt
	@tools/setup.sh build
	@touch $@

.tools/.lint: tools/lint.txt .tools/.build
	@tools/setup.sh lint
	@touch $@

dist/.built: $(PACKAGED) | .tools/.build
	@echo 'Building dist/ (sdist and wheel)'
	@rm -rf dist build *.egg-info
	@log=$$(mktemp); $(PYTHON_LINT) -m build --no-isolation >$$log 2>&1 \
	    || { cat $$log; exit 1; }; rm $$log
	@touch $@

$(VENV)/.ready: setup.py tools/setup.sh tools/find_python.sh | dist/.built
	@tools/setup.sh run $(VENV) "$(TF)" "$(PY)"
	@touch $@

$(VENV)/.installed: dist/.built $(VENV)/.ready
	@echo 'Installing the wheel in $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet --no-deps --no-index \
	    --force-reinstall dist/*.whl
	@touch $@
