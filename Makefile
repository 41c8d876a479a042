# The menu. Everything runs in .venv, which run.py makes; nothing needs to be activated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test parity e2e slow lint format types imports docs check

help:             ## this list
	@grep -E '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed 's/: .*##/\t/'
install:          ## .venv with RecurVid and the tools for development
	@$(PYTHON) run.py setup --dev
demo:             ## the example picture becomes a video
	@$(PYTHON) run.py demo
test:             ## all tests but the slow ones and those that need a GPU or the network
	@$(PYTHON) run.py test
parity: install ## the comparisons with other people's code
	$(BIN)/pytest -m "parity and not slow and not gpu and not network"
e2e: install ## the whole path with the bundled model
	$(BIN)/pytest -m "e2e and not slow and not gpu and not network"
slow: install ## the tests that take minutes
	$(BIN)/pytest -m "slow and not gpu and not network"
lint: install ## ruff
	$(BIN)/ruff check .
format: install ## ruff, writing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
types: install ## pyright
	$(BIN)/pyright
imports: install ## the direction of imports
	$(BIN)/lint-imports
docs: install ## the code and commands in the documentation are run
	$(BIN)/pytest tests/architecture/test_documentation.py
check:            ## lint, types and imports, all three
	@$(PYTHON) run.py check
