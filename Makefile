# Everything happens in .venv; PYTHON (3.10 to 3.13) is only used to create it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Python 3.10 brings a pip (23.0) whose search for versions that fit does not end within ten minutes.
NEW_PIP := "pip>=23.1"
DEMO := .demo
# An environment without TensorFlow, so without the package's own list of dependencies.
JAX_VENV := .venv-jax
LOWEST_VENV := .venv-lowest
JAX_PACKAGES := click filelock grain jax keras numpy pillow pydantic PyYAML rich scikit-learn scipy hypothesis pytest
HANDOVER := $(CURDIR)/build/handover
# A phone of this machine's processor, a Raspberry Pi; for slow tests also a 32-bit one, an emulated phone, its Python.
DEVICES := phone-$(shell dpkg --print-architecture 2>/dev/null) raspberry-arm64
SLOW_DEVICES := raspberry-armhf phone-arm64 bundle
# The folders are one package only where they are installed; links show the type checker the same.
TYPED := build/typed
# Tests of one file stay in one process, since they share what its fixtures make; a process takes up to 2 GB.
SHARED_OUT := --numprocesses=auto --maxprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-search test test-slow test-jax test-lowest check docs devices devices-slow bundle clean

help:
	@echo "make demo       install, train a small network on handwritten digits and compress it (two minutes)"
	@echo "make demo-search  the whole job with search and fine-tuning, on the same digits (a few minutes)"
	@echo "make test       install and run linter, type checker and tests"
	@echo "make test-slow  the same with the slow tests"
	@echo "make test-jax   only the tests of the JAX backend, in .venv-jax without TensorFlow (part of make test)"
	@echo "make test-lowest the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest"
	@echo "make docs       the site of the documentation, in build/site"
	@echo "make devices    stand-ins of a phone and of a Raspberry Pi for tests/deploy/devices (Debian, as root);"
	@echo "                make devices-slow also makes those of the slow tests"
	@echo "make bundle     Python with LiteRT for 64-bit Android phones, experimental (Debian, as root)"
	@echo "make clean      remove .venv, .venv-jax, .venv-lowest, .demo and all caches"

# The stamps depend on pyproject.toml, so that packages are installed again only when they change.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else \
		"tfmpq needs Python 3.10 to 3.13. Received: %d.%d. Run: make PYTHON=python3.11 ..." % v)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade $(NEW_PIP)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	@echo "Installing tfmpq into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.created
	@echo "Installing tfmpq and what its tests need into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(JAX_VENV)/.installed: pyproject.toml $(VENV)/.created
	@echo "Installing tfmpq with JAX and without TensorFlow into $(JAX_VENV)"
	@$(PYTHON) -m venv $(JAX_VENV)
	@$(JAX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(JAX_PACKAGES)
	@$(JAX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(DEMO)/digits.keras: examples/digits.py $(VENV)/.installed
	$(BIN)/python examples/digits.py $@

demo: $(DEMO)/digits.keras
	$(BIN)/tfmpq compress $(DEMO)/digits.keras --calibrate digits --max-drop 2% --out $(DEMO)/digits.tflite \
		--front $(DEMO)/front.html

# An interrupted job goes on where it stopped; a finished one only shows its table.
demo-search: $(VENV)/.installed
	$(BIN)/tfmpq run --model resnet8 --proxy digits --target digits --out $(DEMO)/resnet8_digits

check: docs
	$(BIN)/ruff check
	$(BIN)/ruff check --preview --select PLW1514
	$(BIN)/ruff format --check
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/tfmpq
	@ln -sfn $(CURDIR)/tfmpq/* $(CURDIR)/models $(CURDIR)/deploy $(CURDIR)/cli $(TYPED)/tfmpq/
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p tfmpq

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

test: check
	$(BIN)/pytest -m "not slow" --ignore=tests/jax $(SHARED_OUT)
	@$(MAKE) --no-print-directory test-jax

test-slow: check
	$(BIN)/pytest --ignore=tests/jax $(SHARED_OUT)
	@$(MAKE) --no-print-directory test-jax
	KERAS_BACKEND=jax $(JAX_VENV)/bin/pytest tests/slow/test_workers.py

# The lowest versions that pyproject.toml allows of what it names itself; a bound that fails here is raised there.
$(LOWEST_VENV)/.installed: pyproject.toml $(VENV)/.installed-dev
	@echo "Installing the lowest versions that are allowed into $(LOWEST_VENV)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST_VENV)
	@$(BIN)/uv pip install --quiet --python $(LOWEST_VENV)/bin/python --resolution lowest-direct -e '.[dev]'
	@touch $@

test-lowest: $(LOWEST_VENV)/.installed
	$(LOWEST_VENV)/bin/pytest -m "not slow" --ignore=tests/jax $(SHARED_OUT)

# The first half leaves a run that the second one reads.
test-jax: $(JAX_VENV)/.installed $(VENV)/.installed-dev
	@rm -rf $(HANDOVER)
	KERAS_BACKEND=jax TFMPQ_HANDOVER=$(HANDOVER) $(JAX_VENV)/bin/pytest tests/jax/test_jax_backend.py
	KERAS_BACKEND=tensorflow TFMPQ_HANDOVER=$(HANDOVER) $(BIN)/pytest tests/jax/test_handover.py

# Stand-ins need Debian's packages openssh-server adb mmdebstrap qemu-user-static iproute2.
devices: $(addprefix build/devices/,$(DEVICES))

devices-slow: $(addprefix build/devices/,$(sort $(DEVICES) $(SLOW_DEVICES)))

bundle: build/devices/bundle

# phone-arm64 is what phone.sh makes for arm64.
.SECONDEXPANSION:
STAND_INS := tests/deploy/devices/stand_ins
build/devices/%: $(VENV)/.created $(STAND_INS)/common.sh $(STAND_INS)/$$(firstword $$(subst -, ,$$*)).sh
	@echo "Making $@"
	@rm -rf $@.new && mkdir -p $@.new
	@PATH=$(CURDIR)/$(BIN):$$PATH bash $(STAND_INS)/$(firstword $(subst -, ,$*)).sh setup $@.new \
		$(lastword $(subst -, ,$*))
	@rm -rf $@ && mv $@.new $@ && touch $@

clean:
	rm -rf $(VENV) $(JAX_VENV) $(LOWEST_VENV) .demo build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
