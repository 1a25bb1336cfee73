# `make` alone prints the targets. Each sets up what it needs: .tools (lints
# and builds) and .venv (TensorFlow, and the package installed from its wheel).
#
#   make test ARGS="-k mask -x"    more arguments for pytest
#   make test JOBS=0               tests in one process, not two
#   make test TF=1.15.5            another TensorFlow 1.x, in .venv-1.15.5
#   make test TF=1.13.2 PY=3.6     on that Python, in .venv-1.13.2-py3.6
#   make test PYTHON=/path/to/it   the Python to set up with (3.7 or 3.6)
#   make test-all ARGS="1.12 intel"   only lines that contain one of these

TF = 1.13.1
PY =
JOBS = 2
ARGS =
export PYTHON

VENV := .venv$(if $(TF:1.13.1=)$(PY),-$(TF))$(PY:%=-py%)
FIGURES := benchmarks/results/tensorflow-$(TF).json
PYTHON_LINT := .tools/env/bin/python
PACKAGED := $(wildcard awd_lstm_tf/*.py) \
    setup.py pyproject.toml MANIFEST.in README.md LICENSE
# From a folder where the source tree is out of sight; --installed has
# tests/conftest.py insist on it.
PYTEST = work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && cd "$$work" && \
    "$(CURDIR)/$(VENV)/bin/python" -m pytest "$(CURDIR)/tests" --installed \
    -n $(JOBS) -p no:cacheprovider

.PHONY: help demo test check test-all slow runtimes bench docs parity lint format wheel clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo     set up, and train a language model on real text'
	@echo 'make test     set up, lint, build the wheel, and test it'
	@echo 'make check    the tests alone, without the lint'
	@echo 'make test-all  the tests on every TensorFlow in tools/versions.txt'
	@echo 'make slow     the same tests, but those marked slow'
	@echo 'make runtimes  all tests of exported models, in the runtimes of today'
	@echo 'make bench    time and memory of all layers (TORCH: that of PyTorch, too)'
	@echo 'make docs     docs/api.md from the docstrings'
	@echo 'make parity   the recipe beside PyTorch; TORCH is a Python that has it'
	@echo 'make lint     ruff: rules and format'
	@echo 'make format   ruff: mend what it can'
	@echo 'make wheel    sdist and wheel in dist/, checked by twine'
	@echo 'make clean    remove all that make made'
	@sed -n 's/^#   make/make/p' Makefile

demo: $(VENV)/.installed
	@$(VENV)/bin/python examples/language_model.py $(ARGS)

test: lint check

check: $(VENV)/.installed
	@$(MAKE) -s .venv-runtimes/.ready || echo 'Tests in runtimes are skipped'
	@$(PYTEST) $(ARGS)

test-all: dist/.checked
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
	@$(VENV)/bin/python benchmarks/step_time.py --sizes small medium paper \
	    $(TORCH:%=--torch-python %) --json $(FIGURES)
	@$(VENV)/bin/python benchmarks/memory.py --json $(FIGURES)
	@$(VENV)/bin/python benchmarks/report.py $(FIGURES)

docs: $(VENV)/.installed
	@$(VENV)/bin/python tools/api_reference.py

parity: $(VENV)/.installed
	@$(VENV)/bin/python benchmarks/parity.py --torch "$(TORCH)" $(ARGS)

lint: .tools/.ready
	@$(PYTHON_LINT) -m ruff check --quiet --output-format concise .
	@$(PYTHON_LINT) -m ruff format --quiet --check .

format: .tools/.ready
	@$(PYTHON_LINT) -m ruff check --quiet --fix .
	@$(PYTHON_LINT) -m ruff format .

wheel: dist/.checked

clean:
	rm -rf .tools .venv* .python dist build *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.tools/.ready: tools/setup.sh tools/find_python.sh tools/requirements.txt
	@tools/setup.sh tools
	@touch $@

dist/.checked: $(PACKAGED) | .tools/.ready
	@echo 'Building dist/ (sdist and wheel)'
	@rm -rf dist build *.egg-info
	@log=$$(mktemp); $(PYTHON_LINT) -m build --no-isolation >$$log 2>&1 \
	    || { cat $$log; exit 1; }; rm $$log
	@$(PYTHON_LINT) -m twine check --strict dist/*
	@touch $@

$(VENV)/.ready: setup.py tools/setup.sh tools/find_python.sh | dist/.checked
	@tools/setup.sh run $(VENV) $(TF) $(PY)
	@touch $@

$(VENV)/.installed: dist/.checked $(VENV)/.ready
	@echo 'Installing the wheel in $(VENV)'
	@$(VENV)/bin/python -m pip install --quiet --no-deps --no-index \
	    --force-reinstall dist/*.whl
	@touch $@
